//! "Did you mean …": the known word closest to an unknown one.

/// `; did you mean "…"?` if a known word is close enough, or else an empty text.
pub fn suggest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let near = |k: &&str| strsim::damerau_levenshtein(word, k) <= 1 + k.len() / 3;
    let best = known.into_iter().filter(near).min_by_key(|k| strsim::damerau_levenshtein(word, k));
    best.map_or_else(String::new, |k| format!("; did you mean {k:?}?"))
}

#[cfg(test)]
mod tests {
    use super::suggest;

    #[test]
    fn suggests_only_close_words() {
        assert_eq!(suggest("scops", ["scopes", "posts"]), "; did you mean \"scopes\"?");
        assert_eq!(suggest("banana", ["scopes", "posts"]), "");
    }
}
