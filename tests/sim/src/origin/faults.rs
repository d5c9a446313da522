//! What goes wrong at an origin, and how often.

use std::ops::{Range, RangeInclusive};

use http::Method;
use tokio::time::Instant;

use crate::objects::Name;
use crate::random::Random;

/// What an origin is asked.
pub(super) struct Asked {
    pub(super) name: Name,
    pub(super) method: Method,
    pub(super) range: Option<Range<u64>>,
    /// `If-Match`.
    pub(super) pin: Option<String>,
    /// `If-Unmodified-Since`, as the version that it stands for.
    pub(super) unmodified_since: Option<u64>,
}

impl Asked {
    fn is_pinned(&self) -> bool {
        self.pin.is_some() || self.unmodified_since.is_some()
    }
}

/// One thing that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// No connection.
    Refuse,
    /// No answer, ever.
    Silence,
    /// Another status, without a body.
    Status(u16),
    /// The body stops, and stays open.
    Stall,
    /// The body breaks off with an error.
    Cut,
    /// The body ends early, as if it were whole.
    Short,
    /// The body has more bytes than it should.
    Long,
    /// `Content-Range` names other bytes.
    WrongRange,
    /// `Content-Range` names another size of the whole.
    WrongTotal,
    /// The ETag is no version's.
    WrongTag,
    /// 200 with the whole object instead of the range.
    WholeInstead,
    /// The condition is not looked at: what is current comes, whatever was asked for.
    NoIfMatch,
}

impl Fault {
    /// Whether the gateway may take the origin for being away.
    pub(super) fn is_outage(self) -> bool {
        matches!(self, Self::Refuse | Self::Silence | Self::Status(_))
    }

    /// For counting.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Refuse => "fault: refused",
            Self::Silence => "fault: silence",
            Self::Status(_) => "fault: status",
            Self::Stall => "fault: stalled body",
            Self::Cut => "fault: cut body",
            Self::Short => "fault: short body",
            Self::Long => "fault: long body",
            Self::WrongRange => "fault: wrong range",
            Self::WrongTotal => "fault: wrong size",
            Self::WrongTag => "fault: wrong tag",
            Self::WholeInstead => "fault: range ignored",
            Self::NoIfMatch => "fault: condition ignored",
        }
    }
}

/// Faults that any request may meet.
const ANY: [Fault; 5] = [
    Fault::Refuse,
    Fault::Silence,
    Fault::Status(500),
    Fault::Status(503),
    Fault::Status(429),
];

/// Faults of answers with a body.
const OF_BODIES: [Fault; 6] = [
    Fault::Stall,
    Fault::Cut,
    Fault::Short,
    Fault::Long,
    Fault::WrongRange,
    Fault::WholeInstead,
];

/// Faults that are lies only to who asked for a certain version: to anybody else they would be the truth about
/// another.
const OF_PINNED: [Fault; 3] = [Fault::WrongTotal, Fault::WrongTag, Fault::NoIfMatch];

/// The moments of a storm in which an origin may go away.
const STORM: RangeInclusive<u64> = 2_000..=12_000;

/// When an origin answers nobody: time enough for what was read before to be past its time.
#[derive(Clone, Debug)]
pub(super) struct Away {
    times: Vec<Range<Instant>>,
}

impl Away {
    /// One world in four has such times, counted from now.
    pub(super) fn draw(random: &mut Random) -> Self {
        let count = *random.pick(&[0, 0, 0, 2]);
        let times = (0..count).map(|_| {
            let from = Instant::now() + random.millis(STORM);
            from..from + random.millis(2_000..=6_000)
        });
        Self {
            times: times.collect(),
        }
    }

    /// What a request meets that is made now.
    pub(super) fn fault(&self, random: &mut Random) -> Option<Fault> {
        let now = Instant::now();
        let away = self.times.iter().any(|time| time.contains(&now));
        away.then(|| *random.pick(&[Fault::Refuse, Fault::Status(503)]))
    }
}

/// How an origin is, for the whole of a seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nature {
    /// Percent of requests that anything goes wrong with.
    faults: u64,
    /// Percent of conditions that are not looked at.
    no_if_match: u64,
    /// The longest a half of the way takes, in milliseconds, while nothing goes wrong.
    pub(super) slowest_ms: u64,
}

impl Nature {
    pub(super) fn draw(random: &mut Random) -> Self {
        Self {
            // One in four never breaks: what goes wrong there is nobody else's fault.
            faults: *random.pick(&[0, 5, 10, 25]),
            no_if_match: *random.pick(&[0, 10, 100]),
            slowest_ms: *random.pick(&[2, 20, 150]),
        }
    }

    pub(super) fn fault(&self, random: &mut Random, asked: &Asked) -> Option<Fault> {
        if !random.chance(self.faults) {
            let ignores = asked.is_pinned() && random.chance(self.no_if_match);
            return ignores.then_some(Fault::NoIfMatch);
        }
        let mut possible = ANY.to_vec();
        if asked.method == Method::GET {
            possible.extend(OF_BODIES);
            if asked.is_pinned() {
                possible.extend(OF_PINNED);
            }
        }
        Some(*random.pick(&possible))
    }
}
