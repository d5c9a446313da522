//! What can go wrong at an origin, and when it does.

use std::time::Duration;

use http::Method;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// One way in which an answer is wrong, late or missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed instead of an answer.
    Hangup,
    /// An S3 error with this status.
    Status(u16),
    /// The connection is closed after this many bytes of the body.
    Cut {
        /// Body bytes that still leave.
        after: u64,
    },
    /// The body stops for a while.
    Stall {
        /// Body bytes before the pause.
        after: u64,
        /// The pause.
        time: Duration,
    },
    /// If-Match and If-Unmodified-Since are not looked at.
    IgnoreIfMatch,
    /// Content-Range names a range one byte further on than the body's.
    LyingContentRange,
    /// A well-formed body that is shorter than Content-Range says.
    Short {
        /// Bytes that are missing at its end.
        by: u64,
    },
    /// A well-formed body that is longer than Content-Range says.
    Long {
        /// Bytes too many.
        by: u64,
    },
    /// The ETag of a version that never was.
    WrongEtag,
    /// Range is not looked at: 200 with the whole object.
    WholeBody,
    /// The bytes of the version before this one, or after it for version 0, under this version's ETag.
    OtherVersion {
        /// Body bytes that are still right.
        after: u64,
    },
}

/// When a fault strikes: all that is stated must hold.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What happens.
    pub fault: Fault,
    /// Only requests by this method.
    pub method: Option<Method>,
    /// Only this key.
    pub key: Option<String>,
    /// Requests that match and are let through before the first is struck.
    pub skip: u64,
    /// Requests that are struck before the rule is spent.
    pub times: u64,
    /// The chance of each.
    pub probability: f64,
}

impl Rule {
    /// Strikes every request.
    pub fn always(fault: Fault) -> Self {
        Self {
            fault,
            method: None,
            key: None,
            skip: 0,
            times: u64::MAX,
            probability: 1.0,
        }
    }

    /// Strikes the next request only.
    pub fn once(fault: Fault) -> Self {
        Self {
            times: 1,
            ..Self::always(fault)
        }
    }

    /// Strikes each request with this probability, from 0 to 1.
    pub fn sometimes(fault: Fault, probability: f64) -> Self {
        Self {
            probability: probability.clamp(0.0, 1.0),
            ..Self::always(fault)
        }
    }

    /// Limits the rule to one key.
    pub fn on(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// Limits the rule to one method.
    pub fn by(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }
}

/// The rules in force and the one source of chance, so that a seed and an order of requests give the same faults.
#[derive(Debug)]
pub(super) struct Faults {
    rules: Vec<Rule>,
    chance: StdRng,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rules: Vec::new(),
            chance: StdRng::seed_from_u64(seed),
        }
    }

    pub(super) fn add(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// The faults that strike this request; several rules may.
    pub(super) fn strike(&mut self, method: &Method, key: &str) -> Vec<Fault> {
        let mut struck = Vec::new();
        for rule in &mut self.rules {
            let matches = rule.times > 0
                && rule.method.as_ref().is_none_or(|only| only == method)
                && rule.key.as_ref().is_none_or(|only| only == key);
            if !matches {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if rule.probability >= 1.0 || self.chance.random_bool(rule.probability) {
                rule.times -= 1;
                struck.push(rule.fault.clone());
            }
        }
        struck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_skips_strikes_and_is_spent() {
        let mut faults = Faults::new(1);
        faults.add(Rule {
            skip: 1,
            times: 2,
            ..Rule::always(Fault::WrongEtag).on("a").by(Method::GET)
        });
        let mut strike = |method, key| !faults.strike(&method, key).is_empty();
        assert!(!strike(Method::GET, "b"));
        assert!(!strike(Method::HEAD, "a"));
        let struck: Vec<_> = (0..5).map(|_| strike(Method::GET, "a")).collect();
        assert_eq!(struck, [false, true, true, false, false]);
    }

    #[test]
    fn one_seed_gives_the_same_faults_twice() {
        let run = |seed| {
            let mut faults = Faults::new(seed);
            faults.add(Rule::sometimes(Fault::Hangup, 0.5));
            (0..200)
                .map(|_| faults.strike(&Method::GET, "a").len())
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
