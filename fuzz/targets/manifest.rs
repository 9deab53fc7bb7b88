//! Manifests: any bytes are one or are refused, also behind a right checksum; what is read comes
//! back when it is written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use schemas::manifest::{checksum, decode, encode};

fuzz_target!(|bytes: &[u8]| {
    let _ = decode(bytes);
    let mut file = format!("tagflow-manifest 1 {}\n", checksum(bytes)).into_bytes();
    file.extend_from_slice(bytes);
    if let Ok((header, body)) = decode(&file) {
        let again = encode(&header, body.as_ref()).expect("it has been one");
        assert_eq!(decode(&again), Ok((header, body)));
    }
});
