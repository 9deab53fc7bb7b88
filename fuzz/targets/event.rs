//! Events: any bytes decode to an event within the limits, or are refused with a reason.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use schemas::event::Decoder;
use schemas::mapping::Mapping;

static DECODERS: LazyLock<[Decoder; 2]> = LazyLock::new(|| {
    let foreign = "event_id=id,ts=created_at:rfc3339,caption=text,user_id=user";
    ["", foreign].map(|mapping| {
        let mapping = Mapping::parse(mapping, &["region"]).expect("a mapping");
        Decoder::new(mapping, &["region".to_owned()])
    })
});

fuzz_target!(|record: &[u8]| {
    for decoder in DECODERS.iter() {
        match decoder.decode(record) {
            Ok(event) => {
                assert!(!event.event_id.is_empty());
                assert_eq!(event.attributes.len(), 1);
            }
            Err(reject) => assert!(!reject.code().is_empty() && !reject.to_string().is_empty()),
        }
    }
});
