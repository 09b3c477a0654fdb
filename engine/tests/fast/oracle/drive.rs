//! Many cases, each from a seed of its own, on all cores; the first that fails is made as small as it can be.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// How many cases, and the seed of the first; the next has the next.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub cases: u64,
    pub seed: u64,
}

/// How often a failing case is tried smaller.
const SHRINKS_MAX: usize = 2_000;

impl Plan {
    /// As many cases as `TIDEGATE_TEST_CASES` says, from `TIDEGATE_TEST_SEED` on, or from one that is new each time.
    pub fn of_environment(cases: u64) -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is no number")))
        };
        let seed = number("TIDEGATE_TEST_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 16);
        Self { cases: number("TIDEGATE_TEST_CASES").unwrap_or(cases), seed }
    }
}

/// A case that fails.
#[derive(Debug)]
pub struct Failure<T> {
    pub seed: u64,
    pub case: T,
    pub why: String,
}

/// Draws cases and checks them; what the checks gave, or the smallest form of a case that fails.
pub fn run<S, R>(
    plan: Plan,
    strategy: &(dyn Fn() -> S + Sync),
    smaller: &(dyn Fn(&S::Value) -> Vec<S::Value> + Sync),
    check: &(dyn Fn(&S::Value) -> Result<R, String> + Sync),
) -> Result<Vec<R>, Box<Failure<S::Value>>>
where
    S: Strategy,
    S::Value: Send,
    R: Send,
{
    let (next, found, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()), Mutex::new(None));
    let work = || {
        let strategy = strategy();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= plan.cases {
                return;
            }
            let seed = plan.seed.wrapping_add(number);
            let mut tree = strategy.new_tree(&mut runner(seed)).expect("a case can be drawn");
            match checked(check, &tree.current()) {
                Ok(result) => found.lock().unwrap().push(result),
                Err(why) => {
                    next.store(plan.cases, Ordering::Relaxed);
                    let failure = without(smaller, check, smallest(seed, &mut tree, why, check));
                    failed.lock().unwrap().get_or_insert(failure);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
        work();
    });
    match failed.into_inner().unwrap() {
        Some(failure) => Err(Box::new(failure)),
        None => Ok(found.into_inner().unwrap()),
    }
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// A panic is a failure like another.
fn checked<T, R>(check: &(dyn Fn(&T) -> Result<R, String> + Sync), case: &T) -> Result<R, String> {
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case)));
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or(panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or("it panicked".to_string()))
    })
}

fn smallest<V, R>(
    seed: u64,
    tree: &mut V,
    why: String,
    check: &(dyn Fn(&V::Value) -> Result<R, String> + Sync),
) -> Failure<V::Value>
where
    V: ValueTree,
{
    let mut smallest = Failure { seed, case: tree.current(), why };
    let mut goes_on = tree.simplify();
    for _ in 0..SHRINKS_MAX {
        if !goes_on {
            break;
        }
        let case = tree.current();
        goes_on = match checked(check, &case) {
            Err(why) => {
                smallest = Failure { seed, case, why };
                tree.simplify()
            }
            Ok(_) => tree.complicate(),
        };
    }
    smallest
}

/// The same with parts left out, as long as one can be: what is drawn shrinks in how it is drawn, and here in what it is.
fn without<T, R>(
    smaller: &(dyn Fn(&T) -> Vec<T> + Sync),
    check: &(dyn Fn(&T) -> Result<R, String> + Sync),
    mut smallest: Failure<T>,
) -> Failure<T> {
    let seed = smallest.seed;
    let fails = |case: T| checked(check, &case).err().map(|why| Failure { seed, case, why });
    while let Some(found) = smaller(&smallest.case).into_iter().find_map(fails) {
        smallest = found;
    }
    smallest
}
