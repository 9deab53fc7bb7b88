//! Extraction of tags: spans are in the text and in order, and the key of a key is itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use schemas::tags::{key, limited, occurrences};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let mut end = 0;
    occurrences(&text, |occurrence| {
        let start = occurrence.tag.as_ptr() as usize - text.as_ptr() as usize;
        assert!(start > end || end == 0, "tags do not overlap");
        end = start + occurrence.tag.len();
        assert!(end <= text.len() && !occurrence.tag.is_empty());
    });
    limited(&text, key, |_, tag, _| {
        assert_eq!(key(tag), *tag, "a key is its own key");
    });
});
