//! Orders in which things can happen: all of them, or as many as there are seeds.

/// What decides what happens next.
#[derive(Debug)]
pub struct Choices(Source);

#[derive(Debug)]
enum Source {
    /// What was picked so far in this order, each out of how many.
    Script { picks: Vec<(usize, usize)>, next: usize },
    /// The state of a generator of numbers (splitmix64).
    Seed(u64),
}

impl Choices {
    /// A number below `of`, which is not 0.
    pub fn pick(&mut self, of: usize) -> usize {
        match &mut self.0 {
            Source::Script { picks, next } => {
                if *next == picks.len() {
                    picks.push((0, of));
                }
                let (picked, before) = picks[*next];
                assert_eq!(of, before, "the same picks must lead to the same choice");
                *next += 1;
                picked
            }
            Source::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = *state;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((mixed ^ (mixed >> 31)) % of as u64) as usize
            }
        }
    }
}

/// Runs `body` once for each sequence of choices that it can make, and counts them.
///
/// # Errors
///
/// The first that `body` has, with the picks that lead to it.
pub fn every_choice(
    mut body: impl FnMut(&mut Choices) -> Result<(), String>,
) -> Result<usize, String> {
    let (mut picks, mut number) = (Vec::new(), 0);
    loop {
        let mut choices = Choices(Source::Script { picks, next: 0 });
        let outcome = body(&mut choices);
        number += 1;
        let Source::Script { picks: made, next } = choices.0 else {
            unreachable!("it was made of a script")
        };
        picks = made;
        picks.truncate(next);
        outcome.map_err(|wrong| {
            let picked: Vec<_> = picks.iter().map(|(picked, _)| picked).collect();
            format!("{wrong}, by {picked:?}")
        })?;
        // The last choice that has another way to go takes that.
        while picks.last().is_some_and(|(picked, of)| picked + 1 == *of) {
            picks.pop();
        }
        match picks.last_mut() {
            Some((picked, _)) => *picked += 1,
            None => return Ok(number),
        }
    }
}

/// Runs `body` with choices that each of these seeds decides.
///
/// # Errors
///
/// The first that `body` has, with its seed.
pub fn each_seed(
    seeds: std::ops::Range<u64>,
    mut body: impl FnMut(&mut Choices) -> Result<(), String>,
) -> Result<(), String> {
    for seed in seeds {
        body(&mut Choices(Source::Seed(seed)))
            .map_err(|wrong| format!("{wrong}, by seed {seed}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_sequence_is_tried_once() {
        let mut seen = BTreeSet::new();
        let number = every_choice(|choices| {
            let first = choices.pick(3);
            // How many follow depends on what was picked before.
            let rest: Vec<_> = (0..first).map(|_| choices.pick(2)).collect();
            assert!(seen.insert((first, rest)));
            Ok(())
        });
        assert_eq!((number, seen.len()), (Ok(1 + 2 + 4), 7));
    }

    #[test]
    fn what_is_wrong_can_be_found_again() {
        let found = every_choice(|choices| match (choices.pick(2), choices.pick(3)) {
            (1, 2) => Err("wrong".to_owned()),
            _ => Ok(()),
        });
        assert_eq!(found, Err("wrong, by [1, 2]".to_owned()));
        let mut picked = Vec::new();
        for _ in 0..2 {
            let seen = each_seed(7..8, |choices| {
                picked.push(choices.pick(1000));
                Ok(())
            });
            assert_eq!(seen, Ok(()));
        }
        assert_eq!(picked[0], picked[1]);
    }
}
