//! The client against agents made from seeds: whatever comes, a call ends in time, with an error or an answer,
//! and holds no more memory than its limits say.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod liar;

use std::sync::Arc;
use std::time::{Duration, Instant};

use liar::{Liar, Random, VERBS, call, client};
use peak_alloc::PeakAlloc;

/// Alone in its program, so that what is held is held by the calls and the liars.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// How many cases, and the first seed: `CASEMATE_FUZZ=COUNT:SEED`.
fn asked() -> (u64, u64) {
    let text = std::env::var("CASEMATE_FUZZ").unwrap_or_default();
    let (count, seed) = text.split_once(':').unwrap_or((&text, "1"));
    (count.parse().unwrap_or(3000), seed.parse().unwrap_or(1))
}

#[tokio::test]
async fn whatever_comes_a_call_ends_and_holds_little() {
    let (count, first) = asked();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let at_once = Arc::new(tokio::sync::Semaphore::new(16));
    let mut running = tokio::task::JoinSet::new();
    let answered = Arc::new(std::sync::atomic::AtomicU64::new(0));
    for seed in first..first + count {
        let place = Arc::clone(&at_once).acquire_owned().await.unwrap();
        let answered = Arc::clone(&answered);
        running.spawn(async move {
            let mut random = Random::new(seed);
            let verb = random.below(VERBS);
            let client = client(Liar::random(&mut random, verb));
            let begun = Instant::now();
            let done = call(&client, verb).await;
            // Silence counts anew with every message, and a stream of them has an end by its bytes.
            assert!(begun.elapsed() < Duration::from_secs(20), "seed {seed}");
            if let Err(error) = &done {
                let text = error.to_string();
                assert!(text.len() < 4096, "seed {seed}: {} bytes", text.len());
                assert!(!text.contains(char::is_control), "seed {seed}: {text:?}");
            }
            if done.is_ok() {
                answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            drop(place);
        });
        while let Some(done) = running.try_join_next() {
            done.unwrap();
        }
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    let held = MEMORY.peak_usage().saturating_sub(before);
    let answered = answered.load(std::sync::atomic::Ordering::Relaxed);
    eprintln!(
        "{count} liars, {answered} calls answered, at most {held} bytes held by 16 calls and 16 liars"
    );
    assert!(held < 64 * MIB, "{held} bytes");
    assert!(answered > 0, "the generator makes no whole answer");
}
