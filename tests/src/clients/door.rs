//! What a gateway asks of its clients, and what they are given for it: the one place to change when it asks for more.

/// One way to stand before a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Whoever reaches the port may read, and nobody signs.
    Open,
    /// Everybody signs, or says who they are as they can.
    Signed,
}

/// The pair that signed clients have.
const PAIR: (&str, &str) = ("LOADER", "clients/secret+of=their.own");

/// The section that lets [`PAIR`] in and nobody else.
const ACCESS: &str = "[[access]]\naccess_key_id = \"LOADER\"\n\
                      secret_access_key = \"clients/secret+of=their.own\"\n";

impl Door {
    /// Each of them.
    pub const ALL: [Door; 2] = [Door::Open, Door::Signed];

    /// What it adds to the settings file.
    #[must_use]
    pub fn settings(self) -> &'static str {
        match self {
            Door::Open => "",
            Door::Signed => ACCESS,
        }
    }

    /// Access key id and secret for its clients, if they need any.
    #[must_use]
    pub fn access(self) -> Option<(&'static str, &'static str)> {
        match self {
            Door::Open => None,
            Door::Signed => Some(PAIR),
        }
    }

    /// Whether a client can read in that way here: without a pair nobody can sign, and there is no HTTP/2 in clear over
    /// TLS.
    #[must_use]
    pub fn takes(self, way: &str) -> bool {
        match way {
            "h2c" => self.ca().is_none(),
            _ => self.access().is_some() || !(way.starts_with("presigned") || way == "--aws-sigv4"),
        }
    }

    /// The certificate authority's file that its clients have to trust, where it speaks TLS; curl's driver then reads by
    /// `h2 over TLS` instead of `h2c`. The gateway's own certificate has to be another: obstore and polars take none that
    /// is an authority's.
    #[must_use]
    pub fn ca(self) -> Option<&'static str> {
        None
    }
}
