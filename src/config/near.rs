//! What may have been meant by a name that there is not.

use std::collections::HashSet;

/// The nearest of the names that are known, or all of them where none is near.
pub(super) fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut seen = HashSet::new();
    let known: Vec<&str> = known.into_iter().filter(|known| seen.insert(*known)).collect();
    let distance = |known: &str| {
        let distance = strsim::damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase());
        (distance <= 1 + known.len() / 4).then_some(distance)
    };
    let least = known.iter().filter_map(|known| distance(known)).min();
    if least.is_none() {
        return format!("known here: {}", known.join(", "));
    }
    let near: Vec<&str> = known.into_iter().filter(|known| distance(known) == least).collect();
    format!("did you mean {}?", near.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::hint;

    #[test]
    fn near_names_are_told_and_else_all() {
        assert_eq!(hint("creat", ["create", "update"]), "did you mean create?");
        assert_eq!(hint("txn", ["Txn", "Put"]), "did you mean Txn?");
        assert_eq!(hint("bat", ["cat", "hat", "cat"]), "did you mean cat or hat?");
        assert_eq!(hint("nothing", ["get", "put", "get"]), "known here: get, put");
    }
}
