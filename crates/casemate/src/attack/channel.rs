//! A covert channel's bandwidth: the bits that the host drew against those that came out at the other end.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Bits of one message: the last sixteen hexadecimal digits of the stage's secret.
const BITS: usize = 64;
/// How long one bit takes: two halves of 20 ms, as the attack's file has it.
const BIT: Duration = Duration::from_millis(40);
/// Time that both ends are given to come up.
const WITHIN: Duration = Duration::from_secs(4);
/// Standard deviations above guessing from which a channel is said to be one.
const CERTAIN: f64 = 3.0;

/// What came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Channel {
    /// Bits that were as they were sent.
    pub(crate) bits_right: u32,
    /// Bits that were sent.
    pub(crate) bits_sent: u32,
}

impl Channel {
    /// Compares what a receiver said with the secret that the sender was told; none where it did not say.
    pub(crate) fn between(secret: &str, output: &[u8]) -> Option<Self> {
        let output = String::from_utf8_lossy(output);
        let said = output.lines().find_map(|line| line.strip_prefix("bits="))?;
        let digits = secret.get(secret.len().checked_sub(BITS / 4)?..)?;
        let sent = u64::from_str_radix(digits, 16).ok()?;
        (said.len() == BITS && said.bytes().all(|bit| matches!(bit, b'0' | b'1'))).then(|| {
            let right = said.bytes().enumerate();
            let right = right.filter(|(at, bit)| u64::from(bit - b'0') == sent >> at & 1);
            Self {
                bits_right: u32::try_from(right.count()).unwrap_or(0),
                bits_sent: BITS as u32,
            }
        })
    }

    /// Whether more arrived than guessing gives.
    pub(crate) fn is_there(self) -> bool {
        let sent = f64::from(self.bits_sent);
        f64::from(self.bits_right) >= sent / 2.0 + CERTAIN * sent.sqrt() / 2.0
    }

    /// Bits a second: the capacity of a channel that turns bits over as often as this one did. Nothing
    /// where it could have been guessing.
    pub(crate) fn rate(self) -> f64 {
        if !self.is_there() {
            return 0.0;
        }
        let wrong = 1.0 - f64::from(self.bits_right) / f64::from(self.bits_sent);
        let entropy = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
        (1.0 - entropy(wrong) - entropy(1.0 - wrong)) / BIT.as_secs_f64()
    }

    /// In words.
    pub(crate) fn describe(self) -> String {
        let (right, sent) = (self.bits_right, self.bits_sent);
        if self.is_there() {
            format!("{:.1} bit/s ({right} of {sent} bits right)", self.rate())
        } else {
            format!("no more than guessing ({right} of {sent} bits right)")
        }
    }
}

/// The second of the wall clock at which both ends begin.
pub(crate) fn start() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    (now.unwrap_or_default() + WITHIN).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "canary-00000000000000000000000000000005";

    fn got(wrong: usize) -> Channel {
        let bits: String = (0..BITS)
            .map(|at| {
                let sent = 5_u64 >> at & 1 == 1;
                if sent == (at >= wrong) { '1' } else { '0' }
            })
            .collect();
        Channel::between(SECRET, format!("begun\nbits={bits}\n").as_bytes()).unwrap()
    }

    #[test]
    fn all_bits_right_is_the_whole_rate_and_guessing_is_none() {
        assert_eq!((got(0).bits_right, got(0).rate()), (64, 25.0));
        assert!(!got(32).is_there() && got(32).rate() == 0.0);
        let some = got(8);
        assert!(
            some.is_there() && (10.0..13.0).contains(&some.rate()),
            "{}",
            some.rate()
        );
    }

    #[test]
    fn what_is_no_message_is_none() {
        for output in ["", "bits=01", "bits=xyz"] {
            assert_eq!(Channel::between(SECRET, output.as_bytes()), None);
        }
        assert_eq!(Channel::between("short", b"bits=0"), None);
    }
}
