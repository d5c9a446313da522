//! What can go wrong between an origin and a reader.

use std::sync::Arc;

/// Why an origin did not give what it was asked for.
///
/// One variant for each thing that the asker does about it; cloneable, since everybody who waits
/// for one answer shares it. No text of the origin's is in here: it may hold secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// The origin says that there is no such object.
    #[error("the origin has no such object")]
    NotFound,
    /// No origin of this kind could have an object of that name.
    #[error("{0}")]
    Unnameable(&'static str),
    /// The origin refuses us: our credentials are wrong, or may not read this.
    #[error("the origin answered {status}: check the dataset's credentials and what they may read")]
    Refused {
        /// 401 or 403.
        status: u16,
    },
    /// The origin asks for less: 429, or 503.
    #[error("the origin answered {status} and asks for fewer requests")]
    SlowDown {
        /// 429 or 503.
        status: u16,
    },
    /// Any other status that is not an answer.
    #[error("the origin answered {status}")]
    Status {
        /// The status code.
        status: u16,
    },
    /// No connection, or it broke before an answer came.
    #[error("the origin can't be reached: {0}")]
    Unreachable(Arc<str>),
    /// It has not answered for a while, and was not asked this time: another request asks whether it is back.
    #[error(
        "the origin has not answered for {seconds} s, and is asked again in a moment; \
         what is cached is served meanwhile"
    )]
    Down {
        /// Since the first request that it did not answer.
        seconds: u64,
    },
    /// Another gateway found it away, and told what it knew: this one has not asked. It says something of that object, and
    /// of no other: two gateways that heard it of each other would else go on saying so.
    #[error("another gateway of the fleet found the origin away")]
    FoundAway,
    /// The request needs credentials and there were none.
    #[error(
        "there are no credentials for the origin: name them in the dataset's options, \
         or set aws_skip_signature = \"true\" for a public bucket"
    )]
    NoCredentials,
    /// No answer, or no byte, in time.
    #[error("the origin did not answer in time")]
    TimedOut,
    /// The body ended before it was whole.
    #[error("the origin's body broke off")]
    Cut,
    /// An answer that is not one to the question: another range, length, or none at all.
    #[error("the origin's answer can't be used: {0}")]
    BadAnswer(Arc<str>),
    /// The object is another version by now than the one that was asked for.
    #[error("the object changed at the origin")]
    Changed,
    /// The range starts past the object's end.
    #[error("the range starts past the object's end")]
    PastEnd,
    /// The part asked for is not one of the object's.
    #[error("the object has {count} parts")]
    NoSuchPart {
        /// How many it has.
        count: u32,
    },
    /// This kind of origin can't do that.
    #[error("{0}")]
    Unsupported(Arc<str>),
    /// Our own fault: a fill ended without a word.
    #[error("the fill ended early")]
    Abandoned,
}

impl OriginError {
    /// Whether the same question may get a better answer in a moment.
    pub fn retryable(&self) -> bool {
        match self {
            Self::SlowDown { .. }
            | Self::Unreachable(_)
            | Self::Down { .. }
            | Self::FoundAway
            | Self::TimedOut
            | Self::Cut
            | Self::BadAnswer(_)
            | Self::Abandoned => true,
            Self::Status { status } => *status >= 500 || *status == 408,
            Self::NotFound
            | Self::Unnameable(_)
            | Self::Refused { .. }
            | Self::NoCredentials
            | Self::Changed
            | Self::PastEnd
            | Self::NoSuchPart { .. }
            | Self::Unsupported(_) => false,
        }
    }

    /// Whether the origin is away, rather than of an opinion about this object.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Down { .. } | Self::FoundAway | Self::TimedOut => true,
            Self::Status { status } | Self::SlowDown { status } => *status >= 500,
            _ => false,
        }
    }

    /// Whether a known version may stand in for the answer that did not come: the origin is away,
    /// or does not let us in.
    pub fn may_be_bridged(&self) -> bool {
        self.retryable() || matches!(self, Self::Refused { .. } | Self::NoCredentials)
    }
}
