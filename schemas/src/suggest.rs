//! "Did you mean …": the nearest known word to one that is not known.

/// `; did you mean "…"?` where a known word is near enough, else nothing.
pub fn suggest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let near = |k: &&str| strsim::damerau_levenshtein(word, k) <= 1 + k.len() / 3;
    let best = known.into_iter().filter(near).min_by_key(|k| strsim::damerau_levenshtein(word, k));
    best.map_or_else(String::new, |k| format!("; did you mean {k:?}?"))
}

#[cfg(test)]
mod tests {
    use super::suggest;

    #[test]
    fn only_near_words() {
        assert_eq!(suggest("scops", ["scopes", "posts"]), "; did you mean \"scopes\"?");
        assert_eq!(suggest("banana", ["scopes", "posts"]), "");
    }
}
