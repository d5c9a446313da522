//! Both ends of a connection prove that they have the fleet's key, before the first request.
//!
//! Each sends a number that was never used before; each answers with an HMAC over both numbers, both
//! names and who is speaking, so that no answer serves twice, elsewhere, or for the other side. The one
//! who calls proves first: a stranger who knocks learns nothing that it could try keys on. While a key is
//! replaced, two are valid: each end sends a proof for every key that it has.
//!
//! What follows on the connection is as safe as the network, unless there is TLS under it
//! ([`tls`](super::tls)): who can change packets under way needs to be kept out by other means.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::{constant_time, hmac};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::tls::FleetTls;
use super::wire::{OLDEST, newest};

/// How long all of it may take.
pub const PATIENCE: Duration = Duration::from_secs(3);

const MAGIC: &[u8; 8] = b"forebay\n";
const NONCE: usize = 32;
const PROOF: usize = 32;

/// Names are at most that long, in bytes.
const LONGEST: usize = 255;

/// The keys of a fleet: one, or two while it is replaced.
#[derive(Clone)]
pub struct Keys(Arc<[hmac::Key]>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// Keys for connections, of the fleet's own: never those themselves.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let purpose = b"forebay: connections between gateways";
        let derive = |key: &[u8]| {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), purpose);
            hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref())
        };
        Self(keys.into_iter().map(derive).collect())
    }

    fn proofs(&self, said: &[u8]) -> Vec<u8> {
        let mut proofs = Vec::with_capacity(1 + self.0.len() * PROOF);
        // Two at most.
        proofs.push(u8::try_from(self.0.len()).unwrap_or(u8::MAX));
        for key in &*self.0 {
            proofs.extend_from_slice(hmac::sign(key, said).as_ref());
        }
        proofs
    }

    fn accept(&self, said: &[u8], proofs: &[u8]) -> bool {
        let ours = self.0.iter().map(|key| hmac::sign(key, said));
        // All pairs, whatever was found: the time says nothing of which.
        ours.fold(false, |found, ours| {
            proofs.chunks(PROOF).fold(found, |found, proof| {
                found | constant_time::verify_slices_are_equal(ours.as_ref(), proof).is_ok()
            })
        })
    }
}

/// Who is speaking, and for which fleet.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The fleet's name.
    pub fleet: Arc<str>,
    /// The gateway's own name in it.
    pub member: Arc<str>,
    /// Its keys.
    pub keys: Keys,
    /// What is under it all; `None`: the bare connection.
    pub tls: Option<FleetTls>,
}

/// Why a connection is not one of the fleet's.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It broke, or said nothing.
    #[error("the connection ended before it was known who called: {0}")]
    Io(#[from] io::Error),
    /// It speaks something else.
    #[error("this is the fleet's port, and the caller does not speak as a gateway does")]
    Stranger,
    /// It belongs to a fleet of another name.
    #[error("the caller belongs to the fleet {0:?}: give all members of one fleet the same name")]
    Fleet(String),
    /// It speaks no protocol that we do.
    #[error("the caller speaks other protocols: upgrade the older of the two first")]
    Protocol,
    /// It does not prove by TLS that it has the key, where we ask for that.
    #[error(
        "the caller does not prove by TLS that it has the fleet's key: give all members the same `key` and `tls` in \
         [fleet]"
    )]
    Tls,
    /// It does not have the key.
    #[error("the caller {0:?} has another key: give all members of one fleet the same key")]
    Key(String),
    /// The other end refuses us.
    #[error("the member at the other end refuses this gateway's fleet name, key or protocol")]
    Other,
}

impl Refused {
    /// All labels of a metric.
    pub const LABELS: [&'static str; 7] = [
        "broken", "stranger", "fleet", "protocol", "tls", "key", "refused",
    ];

    /// The label of a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Io(_) => "broken",
            Self::Stranger => "stranger",
            Self::Fleet(_) => "fleet",
            Self::Protocol => "protocol",
            Self::Tls => "tls",
            Self::Key(_) => "key",
            Self::Other => "refused",
        }
    }
}

/// Proves itself on a connection that we made. Returns the name of who answered.
///
/// # Errors
/// Why it is not one of the fleet's.
pub async fn call<S>(stream: &mut S, own: &Identity) -> Result<String, Refused>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let nonce = nonce()?;
    let mut hello = MAGIC.to_vec();
    hello.extend_from_slice(&OLDEST.to_be_bytes());
    hello.extend_from_slice(&newest().to_be_bytes());
    push_text(&mut hello, &own.fleet);
    push_text(&mut hello, &own.member);
    hello.extend_from_slice(&nonce);
    stream.write_all(&hello).await?;
    if stream.read_u16().await? == 0 {
        return Err(Refused::Other);
    }
    let name = read_text(stream).await?;
    let mut theirs = [0; NONCE];
    stream.read_exact(&mut theirs).await?;
    let said = Said {
        fleet: &own.fleet,
        caller: &own.member,
        called: &name,
        nonces: [&nonce, &theirs],
    };
    let proofs = own.keys.proofs(&said.by("caller"));
    stream.write_all(&proofs).await?;
    let proofs = read_proofs(stream).await?;
    if proofs.is_empty() {
        return Err(Refused::Other);
    }
    if !own.keys.accept(&said.by("called"), &proofs) {
        return Err(Refused::Key(name));
    }
    Ok(name)
}

/// Hears out who made a connection to us. Returns its name.
///
/// # Errors
/// Why it is not one of the fleet's; it was told so if it speaks our language.
pub async fn answer<S>(stream: &mut S, own: &Identity) -> Result<String, Refused>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).await?;
    if magic != *MAGIC {
        return Err(Refused::Stranger);
    }
    let (oldest, newest) = (stream.read_u16().await?, stream.read_u16().await?);
    let fleet = read_text(stream).await?;
    let name = read_text(stream).await?;
    let mut theirs = [0; NONCE];
    stream.read_exact(&mut theirs).await?;
    let spoken = common((OLDEST, self::newest()), (oldest, newest));
    let (Some(spoken), true) = (spoken, *fleet == *own.fleet) else {
        stream.write_u16(0).await?;
        return Err(match spoken {
            Some(_) => Refused::Fleet(fleet),
            None => Refused::Protocol,
        });
    };
    let nonce = nonce()?;
    let mut hello = spoken.to_be_bytes().to_vec();
    push_text(&mut hello, &own.member);
    hello.extend_from_slice(&nonce);
    stream.write_all(&hello).await?;
    let said = Said {
        fleet: &own.fleet,
        caller: &name,
        called: &own.member,
        nonces: [&theirs, &nonce],
    };
    let proofs = read_proofs(stream).await?;
    if !own.keys.accept(&said.by("caller"), &proofs) {
        stream.write_u8(0).await?;
        return Err(Refused::Key(name));
    }
    let proofs = own.keys.proofs(&said.by("called"));
    stream.write_all(&proofs).await?;
    Ok(name)
}

/// The newest protocol that both speak.
fn common(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let newest = ours.1.min(theirs.1);
    (newest >= ours.0.max(theirs.0).max(1)).then_some(newest)
}

/// All that a proof covers.
struct Said<'a> {
    fleet: &'a str,
    caller: &'a str,
    called: &'a str,
    nonces: [&'a [u8; NONCE]; 2],
}

impl Said<'_> {
    /// The text of the proof of one side: each part behind its length.
    fn by(&self, side: &str) -> Vec<u8> {
        let mut said = Vec::new();
        for text in [side, self.fleet, self.caller, self.called] {
            push_text(&mut said, text);
        }
        for nonce in self.nonces {
            said.extend_from_slice(nonce);
        }
        said
    }
}

fn nonce() -> io::Result<[u8; NONCE]> {
    let mut nonce = [0; NONCE];
    let filled = SystemRandom::new().fill(&mut nonce);
    filled.map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(nonce)
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    // Names are no longer; what is, is cut and then proves something else.
    let text = &text.as_bytes()[..text.len().min(LONGEST)];
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(text);
}

async fn read_text<S: AsyncRead + Unpin>(stream: &mut S) -> Result<String, Refused> {
    let mut text = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut text).await?;
    String::from_utf8(text).map_err(|_| Refused::Stranger)
}

async fn read_proofs<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, Refused> {
    let count = stream.read_u8().await?;
    if count > 2 {
        return Err(Refused::Stranger);
    }
    let mut proofs = vec![0; usize::from(count) * PROOF];
    stream.read_exact(&mut proofs).await?;
    Ok(proofs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn own(fleet: &str, member: &str, keys: &[&str]) -> Identity {
        Identity {
            fleet: fleet.into(),
            member: member.into(),
            keys: Keys::new(keys.iter().map(|key| key.as_bytes())),
            tls: None,
        }
    }

    async fn meet(
        one: Identity,
        other: Identity,
    ) -> (Result<String, Refused>, Result<String, Refused>) {
        let (mut near, mut far) = tokio::io::duplex(4096);
        tokio::join!(async move { call(&mut near, &one).await }, async move {
            answer(&mut far, &other).await
        })
    }

    #[tokio::test]
    async fn members_of_one_fleet_learn_each_others_names() {
        let (called, answered) = meet(own("f", "a", &["k"]), own("f", "b", &["k"])).await;
        assert_eq!(
            (called.unwrap(), answered.unwrap()),
            ("b".into(), "a".into())
        );
    }

    #[tokio::test]
    async fn while_a_key_is_replaced_the_old_and_the_new_ends_meet() {
        for (one, other) in [
            (&["old"][..], &["old", "new"][..]),
            (&["old", "new"], &["new", "old"]),
            (&["new", "old"], &["new"]),
        ] {
            let (called, answered) = meet(own("f", "a", one), own("f", "b", other)).await;
            assert!(called.is_ok() && answered.is_ok(), "{one:?} {other:?}");
        }
    }

    #[tokio::test]
    async fn another_key_or_fleet_is_refused_at_both_ends() {
        let (called, answered) = meet(own("f", "a", &["k"]), own("f", "b", &["other"])).await;
        assert!(matches!(called, Err(Refused::Other)));
        assert!(matches!(answered, Err(Refused::Key(name)) if name == "a"));
        let (called, answered) = meet(own("f", "a", &["k"]), own("g", "b", &["k"])).await;
        assert!(matches!(called, Err(Refused::Other)));
        assert!(matches!(answered, Err(Refused::Fleet(name)) if name == "f"));
    }

    #[tokio::test]
    async fn who_answers_without_the_key_is_found_out() {
        let (mut near, mut far) = tokio::io::duplex(4096);
        let liar = async move {
            let mut hello = vec![0; 8 + 4 + 2 + 2 + NONCE];
            far.read_exact(&mut hello).await.unwrap();
            let mut said = 1u16.to_be_bytes().to_vec();
            push_text(&mut said, "b");
            said.extend_from_slice(&[7; NONCE]);
            far.write_all(&said).await.unwrap();
            let mut proofs = [0; 1 + PROOF];
            far.read_exact(&mut proofs).await.unwrap();
            // The caller's own proof, sent back.
            far.write_all(&proofs).await.unwrap();
        };
        let caller = own("f", "a", &["k"]);
        let (called, ()) = tokio::join!(call(&mut near, &caller), liar);
        assert!(matches!(called, Err(Refused::Key(_))));
    }

    #[test]
    fn a_protocol_talks_to_the_one_before_and_no_further() {
        assert_eq!(common((1, 1), (1, 1)), Some(1));
        assert_eq!(common((4, 5), (3, 4)), Some(4));
        assert_eq!(common((3, 4), (4, 5)), Some(4));
        assert_eq!(common((4, 5), (2, 3)), None);
        assert_eq!(common((1, 1), (0, 0)), None);
    }
}
