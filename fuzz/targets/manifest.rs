//! Manifests and control records: any bytes decode or are refused, with and without a valid
//! checksum. What decodes is the same after it is encoded again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use schemas::control;
use schemas::manifest::{checksum, decode, encode};

fuzz_target!(|bytes: &[u8]| {
    let _ = decode(bytes);
    let mut file = format!("tagflow-manifest 2 {}\n", checksum(bytes)).into_bytes();
    file.extend_from_slice(bytes);
    if let Ok((header, body)) = decode(&file) {
        let again = encode(&header, body.as_ref()).expect("it has been one");
        assert_eq!(decode(&again), Ok((header, body)));
    }
    let _ = control::decode(bytes);
    let mut file = format!("tagflow-control 1 {}\n", checksum(bytes)).into_bytes();
    file.extend_from_slice(bytes);
    if let Ok((author, records)) = control::decode(&file) {
        let again = control::encode(&author, &records).expect("they have been some");
        assert_eq!(control::decode(&again).ok(), Some((author, records)));
    }
});
