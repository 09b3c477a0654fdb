//! Rejects as rows of `tidegate.dead_letters`: the first of each kind in full, the rest counted with their offsets.

use std::collections::BTreeMap;

use crate::batch::Reject;

/// Records kept in full for each epoch, partition, reason and view: a flood of rejects must not flood the database.
const FULL_MAX: usize = 100;

/// At most this much of a reason is kept for a person.
const DETAIL_CHARS_MAX: usize = 500;

/// A row of `tidegate.dead_letters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The view, or nothing where the whole source rejects the record.
    pub view: String,
    /// The partition.
    pub partition: i32,
    /// The offset, the first of a range.
    pub offset: i64,
    /// The reason.
    pub reason: &'static str,
    /// How many records it stands for.
    pub count: i64,
    /// Their offsets, if it is a range.
    pub offsets: Option<Vec<i64>>,
    /// For a person.
    pub detail: String,
    /// The first bytes.
    pub payload: Option<Vec<u8>>,
    /// The whole size.
    pub payload_size: Option<i64>,
}

/// Folds an epoch's rejects.
pub fn fold(rejects: Vec<Reject>) -> Vec<DeadLetter> {
    let mut kinds: BTreeMap<(Option<String>, i32, &'static str), Vec<Reject>> = BTreeMap::new();
    for reject in rejects {
        kinds.entry((reject.view.clone(), reject.partition, reject.reason)).or_default().push(reject);
    }
    let mut letters = Vec::new();
    for ((view, partition, reason), mut rejects) in kinds {
        rejects.sort_by_key(|reject| reject.offset);
        let view = view.unwrap_or_default();
        for reject in &mut rejects {
            reject.detail = storable(&reject.detail);
        }
        let rest = rejects.split_off(rejects.len().min(FULL_MAX));
        for reject in rejects {
            letters.push(DeadLetter {
                view: view.clone(),
                partition,
                offset: reject.offset,
                reason,
                count: 1,
                offsets: None,
                detail: reject.detail,
                payload: reject.payload,
                payload_size: reject.payload_size,
            });
        }
        if let Some(first) = rest.first() {
            letters.push(DeadLetter {
                view,
                partition,
                offset: first.offset,
                reason,
                count: i64::try_from(rest.len()).unwrap_or(i64::MAX),
                offsets: Some(rest.iter().map(|reject| reject.offset).collect()),
                detail: format!("{}; and {} more of this epoch like it", first.detail, rest.len() - 1),
                payload: None,
                payload_size: None,
            });
        }
    }
    letters
}

/// A text for a person as every store can hold it: a decoder's message may quote the payload, and so any byte of it.
fn storable(detail: &str) -> String {
    detail.chars().take(DETAIL_CHARS_MAX).map(|c| if c == '\0' { '\u{2400}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reject_is_counted_once_and_the_first_are_kept_whole() {
        let reject = |offset| Reject {
            view: None,
            partition: 1,
            offset,
            reason: "malformed",
            detail: "no".to_string(),
            payload: Some(vec![1]),
            payload_size: Some(1),
        };
        let letters = fold((0..250).rev().map(reject).collect());
        assert_eq!(letters.len(), 101);
        assert_eq!(letters.iter().map(|letter| letter.count).sum::<i64>(), 250);
        let mut offsets: Vec<i64> = letters.iter().flat_map(|l| l.offsets.clone().unwrap_or(vec![l.offset])).collect();
        offsets.dedup();
        assert_eq!(offsets, (0..250).collect::<Vec<_>>());
        assert!(letters[..100].iter().all(|letter| letter.payload.is_some()));
    }

    #[test]
    fn a_reason_that_quotes_a_nul_can_be_stored() {
        assert_eq!(storable("unexpected '\0' at 1"), "unexpected '\u{2400}' at 1");
        assert_eq!(storable(&"x".repeat(2_000)).len(), DETAIL_CHARS_MAX);
    }
}
