use super::*;
use crate::etcd::proto::mvccpb::KeyValue;
use proptest::{collection::vec, prelude::*};
use prost::Message;
use std::collections::BTreeMap;

fn key(number: u16) -> String {
    format!("/{number:04}")
}

fn object(number: u16, size: u8) -> Arc<Object> {
    let value = vec![b'v'; size.into()].into();
    let lease = i64::from(size % 2);
    let kv = KeyValue { key: key(number).into(), value, lease, ..KeyValue::default() };
    Arc::new(Object::parse(&kv.encode_to_vec()).expect("a key-value"))
}

fn agrees(tree: &Tree, model: &BTreeMap<u16, u8>, probes: &[u16]) -> Result<(), TestCaseError> {
    let expected: Vec<_> = model.iter().map(|(number, size)| object(*number, *size)).collect();
    let found: Vec<_> = tree.from_rank(0).cloned().collect();
    prop_assert_eq!(&found, &expected);
    prop_assert_eq!(tree.totals(), sum(&expected));
    for probe in probes {
        let rank = model.range(..probe).count();
        let name = key(*probe);
        prop_assert_eq!(tree.before_key(name.as_bytes()), sum(&expected[..rank]));
        prop_assert_eq!(tree.before_rank(rank), sum(&expected[..rank]));
        prop_assert_eq!(tree.get(name.as_bytes()).is_some(), model.contains_key(probe));
        let rest: Vec<_> = tree.from_rank(rank).cloned().collect();
        prop_assert_eq!(&rest[..], &expected[rank..]);
        prop_assert_eq!(tree.ranks(rank..rank + 2).count(), rest.len().min(2));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// `None` removes. Enough keys for three levels; removals in a row make nodes join.
    #[test]
    fn is_an_ordered_set_that_counts(
        loaded in vec((0u16..3000, 0u8..200), 0..2000),
        changes in vec((0u16..3000, proptest::option::of(0u8..200)), 0..500),
        cleared in (0u16..3000, 0u16..3000),
        probes in vec(0u16..3001, 4),
    ) {
        let mut model: BTreeMap<_, _> = loaded.into_iter().collect();
        let mut tree = Tree::from_sorted(model.iter().map(|(number, size)| object(*number, *size)));
        agrees(&tree, &model, &probes)?;
        let (before, before_model) = (tree.clone(), model.clone());
        let cleared = (cleared.0..cleared.1).map(|number| (number, None));
        for (number, size) in changes.into_iter().chain(cleared) {
            let (old, known) = match size {
                Some(size) => (tree.put(object(number, size)), model.insert(number, size)),
                None => (tree.remove(key(number).as_bytes()), model.remove(&number)),
            };
            prop_assert_eq!(old, known.map(|size| object(number, size)));
        }
        agrees(&tree, &model, &probes)?;
        agrees(&before, &before_model, &probes)?;
    }
}

#[test]
fn can_be_emptied_and_filled_again() {
    let mut tree = Tree::default();
    for number in 0..2000 {
        tree.put(object(number, 3));
    }
    for number in (0..2000).rev() {
        assert!(tree.remove(key(number).as_bytes()).is_some());
    }
    assert_eq!((tree.totals(), tree.from_rank(0).count()), (Totals::default(), 0));
    assert_eq!(tree.remove(b"/"), None);
    tree.put(object(1, 3));
    assert_eq!(tree.totals().count, 1);
}
