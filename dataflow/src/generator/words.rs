//! Words for generated posts: a sentence, and a tag's name from its popularity rank.
//!
//! Invariant: different ranks have different keys; all spellings of a rank have the same key.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

const FILLER: [&str; 24] = [
    "morning",
    "light",
    "over",
    "the",
    "city",
    "and",
    "a",
    "long",
    "walk",
    "home",
    "with",
    "old",
    "friends",
    "today",
    "we",
    "found",
    "something",
    "new",
    "near",
    "river",
    "after",
    "rain",
    "so",
    "quiet",
];
const CONSONANTS: [char; 14] =
    ['b', 'd', 'f', 'g', 'k', 'l', 'm', 'n', 'p', 'r', 's', 't', 'v', 'z'];
const VOWELS: [char; 5] = ['a', 'e', 'i', 'o', 'u'];
const SYLLABLES: u64 = 70;
const KANA: [char; 70] = [
    'あ', 'い', 'う', 'え', 'お', 'か', 'き', 'く', 'け', 'こ', 'さ', 'し', 'す', 'せ', 'そ', 'た',
    'ち', 'つ', 'て', 'と', 'な', 'に', 'ぬ', 'ね', 'の', 'は', 'ひ', 'ふ', 'へ', 'ほ', 'ま', 'み',
    'む', 'め', 'も', 'や', 'ゆ', 'よ', 'ら', 'り', 'る', 'れ', 'ろ', 'わ', 'を', 'ん', 'ア', 'イ',
    'ウ', 'エ', 'オ', 'カ', 'キ', 'ク', 'ケ', 'コ', 'サ', 'シ', 'ス', 'セ', 'ソ', 'タ', 'チ', 'ツ',
    'テ', 'ト', 'ナ', 'ニ', 'ヌ', 'ネ',
];
const CYRILLIC: [char; 30] = [
    'а', 'б', 'в', 'г', 'д', 'е', 'ж', 'з', 'и', 'к', 'л', 'м', 'н', 'о', 'п', 'р', 'с', 'т', 'у',
    'ф', 'х', 'ц', 'ч', 'ш', 'щ', 'ы', 'э', 'ю', 'я', 'ь',
];

/// Appends a few words.
pub(super) fn sentence(random: &mut Xoshiro256PlusPlus, out: &mut String) {
    for i in 0..random.random_range(4..10) {
        if i > 0 {
            out.push(' ');
        }
        out.push_str(FILLER[random.random_range(0..FILLER.len())]);
    }
}

/// Appends the tag of a rank. `variant` in [0, 1) picks its spelling, mostly the usual one.
pub(super) fn tag(rank: u64, variant: f64, out: &mut String) {
    debug_assert!((0.0..1.0).contains(&variant), "variant {variant}");
    let start = out.len();
    // About 12 % of tags are not in Latin script.
    match rank % 25 {
        7 | 15 => digits(rank, 70, out, |out, d| out.push(KANA[d as usize])),
        22 => digits(rank, 30, out, |out, d| out.push(CYRILLIC[d as usize])),
        _ => digits(rank, SYLLABLES, out, |out, d| {
            out.push(CONSONANTS[(d / 5) as usize]);
            out.push(VOWELS[(d % 5) as usize]);
        }),
    }
    if variant < 0.10 {
        let first =
            out[start..].chars().next().map(|c| (c.to_uppercase().to_string(), c.len_utf8()));
        if let Some((upper, length)) = first {
            out.replace_range(start..start + length, &upper);
        }
    } else if variant < 0.15 {
        let upper = out[start..].to_uppercase();
        out.replace_range(start.., &upper);
    }
}

/// Writes the digits of a number in some base, at least two, so that no tag is a single letter.
fn digits(mut number: u64, base: u64, out: &mut String, mut digit: impl FnMut(&mut String, u64)) {
    for i in 0.. {
        digit(out, number % base);
        number /= base;
        if number == 0 && i > 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use schemas::tags::{key, occurrences};

    use super::*;

    #[test]
    fn ranks_and_keys_are_one_to_one() {
        let mut ranks = HashMap::new();
        for rank in 1..200_000 {
            let mut plain = String::from("#");
            tag(rank, 0.5, &mut plain);
            let name = &plain[1..];
            assert_eq!(key(name), name, "the usual spelling is the key");
            assert_eq!(ranks.insert(name.to_owned(), rank), None, "{name}");
            let mut found = None;
            occurrences(&plain, |o| found = Some(o.tag.len()));
            assert_eq!(found, Some(name.len()));
            for variant in [0.05, 0.12] {
                let mut spelled = String::new();
                tag(rank, variant, &mut spelled);
                assert_eq!(key(&spelled), name, "{spelled}");
            }
        }
    }
}
