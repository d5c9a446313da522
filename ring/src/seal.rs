//! What members send each other is sealed: nobody without the fleet's key reads, makes or changes it.
//!
//! All keys come from the fleet's key and its name by HKDF-SHA256 (RFC 5869), one for each purpose, so that
//! two fleets that share a key by mistake still do not understand each other, and gossip cannot be passed
//! off as something else. Each message has a key of its own, derived from a random half of its nonce, and
//! is sealed by AES-256-GCM under the other half, the way of XAES-256-GCM: with 192 random bits no number of
//! messages brings a nonce twice, where one key for 96 random bits would be spent within a week by a
//! thousand members.
//!
//! A seal says who could have sent something, not when: replays are for the reader to tell (`gossip` does).

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, Prk, Salt},
    rand,
};
use thiserror::Error;

/// The first byte of all that is sealed. Another number is another way of sealing.
const VERSION: u8 = 1;
const ID: usize = 4;
/// Version, which key, the half of the nonce that derives the message's key, the half that goes with it.
const HEADER: usize = 1 + ID + 2 * NONCE_LEN;
const TAG: usize = 16;

/// Bytes that sealing adds to a message.
pub const SEAL_OVERHEAD: usize = HEADER + TAG;

/// The fewest bytes that a fleet's key may have: 16 is what nobody tries out.
pub const MIN_KEY_BYTES: usize = 16;

/// A key that is too short to keep anybody out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "a fleet's key has at least {MIN_KEY_BYTES} bytes and this one has {0}: make one with \
     `head -c 32 /dev/urandom | base64` and give it to every member"
)]
pub struct ShortKey(pub usize);

/// Why something sealed cannot be opened. No reason tells anything about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is too short, or of another version of sealing: no member of this or the neighbouring releases sent it.
    #[error("this was not sealed by a member of a fleet: only members belong on a fleet's port")]
    Foreign,
    /// It was sealed with a key that is not ours, or for a fleet of another name.
    #[error(
        "this was sealed with another key or for another fleet: give both the same name and key in [fleet]"
    )]
    Key,
    /// It was sealed with our key and has changed since.
    #[error("this was changed after it was sealed: see what stands between the two members")]
    Damaged,
}

/// The keys of a fleet: the one that seals, and perhaps one more that is accepted while keys are changed.
///
/// To change a key, give every member the new one as second key, then make it the first of each and the old
/// one the second, then drop the old one; at each step everybody understands everybody.
#[derive(Clone)]
pub struct FleetKeys {
    // Invariant: not empty; the first one seals.
    roots: Vec<[u8; 32]>,
}

impl FleetKeys {
    /// Keys for the fleet of that name.
    ///
    /// # Errors
    /// A key of fewer than [`MIN_KEY_BYTES`] bytes.
    ///
    /// # Panics
    /// If HKDF-SHA256 fails, which needs more output than is asked for.
    pub fn new(fleet: &str, key: &[u8], next: Option<&[u8]>) -> Result<Self, ShortKey> {
        let roots = [Some(key), next]
            .into_iter()
            .flatten()
            .map(|key| {
                if key.len() < MIN_KEY_BYTES {
                    return Err(ShortKey(key.len()));
                }
                let prk = Salt::new(HKDF_SHA256, b"forebay fleet 1").extract(key);
                Ok(expand(&prk, &[b"fleet", fleet.as_bytes()]))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { roots })
    }

    /// A seal for one purpose: what it seals, the seal of another purpose cannot open.
    pub fn derive(&self, purpose: &str) -> Seal {
        Seal {
            keys: self
                .secrets(purpose)
                .iter()
                .map(|secret| {
                    let prk = Prk::new_less_safe(HKDF_SHA256, secret);
                    let id = expand(&prk, &[b"id"]);
                    Key {
                        id: [id[0], id[1], id[2], id[3]],
                        prk,
                    }
                })
                .collect(),
        }
    }

    /// Bare secrets for one purpose, for what is not sealed: the first one is to be used, each is to be accepted.
    pub fn secrets(&self, purpose: &str) -> Vec<[u8; 32]> {
        self.roots
            .iter()
            .map(|root| {
                let prk = Prk::new_less_safe(HKDF_SHA256, root);
                expand(&prk, &[b"purpose", purpose.as_bytes()])
            })
            .collect()
    }
}

impl fmt::Debug for FleetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetKeys").finish_non_exhaustive()
    }
}

/// Seals and opens for one purpose. Cheap to share, never shown.
#[derive(Clone)]
pub struct Seal {
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: [u8; ID],
    prk: Prk,
}

impl Seal {
    /// `plain`, sealed with the first key; [`SEAL_OVERHEAD`] bytes longer. `bound` is not sent: whoever opens
    /// it must name the same.
    ///
    /// # Panics
    /// If the operating system gives no random numbers.
    pub fn seal(&self, plain: &[u8], bound: &[u8]) -> Vec<u8> {
        let key = &self.keys[0];
        let mut sealed = Vec::with_capacity(plain.len() + SEAL_OVERHEAD);
        sealed.push(VERSION);
        sealed.extend_from_slice(&key.id);
        let mut nonce = [0; 2 * NONCE_LEN];
        rand::fill(&mut nonce).expect("the operating system gives random numbers");
        sealed.extend_from_slice(&nonce);
        let mut body = plain.to_vec();
        let (message, under) = key.message(&nonce);
        let tag = message
            .seal_in_place_separate_tag(under, Aad::from(bound), &mut body)
            .expect("a message is far below AES-GCM's limit");
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// What was sealed, if it was sealed for this purpose, bound to the same bytes, with an accepted key.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, sealed: &[u8], bound: &[u8]) -> Result<Vec<u8>, OpenError> {
        if sealed.len() < SEAL_OVERHEAD || sealed[0] != VERSION {
            return Err(OpenError::Foreign);
        }
        let (header, body) = sealed.split_at(HEADER);
        let id = &header[1..=ID];
        let key = self
            .keys
            .iter()
            .find(|key| key.id == id)
            .ok_or(OpenError::Key)?;
        let (message, under) = key.message(&header[1 + ID..]);
        let mut body = body.to_vec();
        let plain = message
            .open_in_place(under, Aad::from(bound), &mut body)
            .map_err(|Unspecified| OpenError::Damaged)?
            .len();
        body.truncate(plain);
        Ok(body)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

impl Key {
    /// The key of one message and what is left of its nonce, from a nonce of twice the length.
    fn message(&self, nonce: &[u8]) -> (LessSafeKey, Nonce) {
        let (derives, under) = nonce.split_at(NONCE_LEN);
        let bytes = expand(&self.prk, &[b"message", derives]);
        let key = UnboundKey::new(&AES_256_GCM, &bytes).expect("AES-256 takes 32 bytes");
        let under = Nonce::try_assume_unique_for_key(under).expect("half of a nonce is a nonce");
        (LessSafeKey::new(key), under)
    }
}

/// HKDF-Expand to 32 bytes. The parts of `info` are told apart by the length of the first.
fn expand(prk: &Prk, info: &[&[u8]]) -> [u8; 32] {
    let mut bytes = [0; 32];
    let first = [info.first().map_or(0, |part| part.len() as u8)];
    let info: Vec<&[u8]> = [&first[..]]
        .into_iter()
        .chain(info.iter().copied())
        .collect();
    prk.expand(&info, HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut bytes))
        .expect("32 bytes are within HKDF's limit");
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const OLD: &[u8] = b"an old key of the fleet";
    const NEW: &[u8] = b"a new key of the fleet";

    fn seal(fleet: &str, key: &[u8], next: Option<&[u8]>) -> Seal {
        FleetKeys::new(fleet, key, next).unwrap().derive("gossip")
    }

    #[test]
    fn what_is_sealed_opens_and_is_not_to_be_read() {
        let seal = seal("weights", OLD, None);
        for plain in [&b""[..], b"x", &[7; 4000]] {
            let sealed = seal.seal(plain, b"to b");
            assert_eq!(sealed.len(), plain.len() + SEAL_OVERHEAD);
            assert_eq!(seal.open(&sealed, b"to b").unwrap(), plain);
            assert_ne!(sealed, seal.seal(plain, b"to b"));
        }
    }

    #[test]
    fn another_key_fleet_or_purpose_is_told_as_such() {
        let sealed = seal("weights", OLD, None).seal(b"hello", b"");
        for other in [
            seal("weights", NEW, None),
            seal("others", OLD, None),
            FleetKeys::new("weights", OLD, None).unwrap().derive("sync"),
        ] {
            assert_eq!(other.open(&sealed, b""), Err(OpenError::Key));
        }
    }

    #[test]
    fn each_step_of_a_rotation_understands_its_neighbours() {
        let steps = [
            seal("w", OLD, None),
            seal("w", OLD, Some(NEW)),
            seal("w", NEW, Some(OLD)),
            seal("w", NEW, None),
        ];
        for pair in steps.windows(2) {
            for (from, to) in [(0, 1), (1, 0)] {
                let sealed = pair[from].seal(b"hello", b"");
                assert_eq!(pair[to].open(&sealed, b"").unwrap(), b"hello");
            }
        }
        let sealed = steps[3].seal(b"hello", b"");
        assert_eq!(steps[0].open(&sealed, b""), Err(OpenError::Key));
    }

    #[test]
    fn no_changed_byte_goes_unseen() {
        let seal = seal("w", OLD, None);
        let sealed = seal.seal(b"hello", b"to b");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(seal.open(&changed, b"to b").is_err(), "byte {at}");
        }
        for length in 0..sealed.len() {
            assert!(seal.open(&sealed[..length], b"to b").is_err());
        }
        assert_eq!(seal.open(&sealed, b"to c"), Err(OpenError::Damaged));
    }

    #[test]
    fn a_short_key_is_refused_and_no_key_is_shown() {
        assert_eq!(
            FleetKeys::new("w", b"secret", None).unwrap_err(),
            ShortKey(6)
        );
        assert!(FleetKeys::new("w", OLD, Some(b"secret")).is_err());
        let keys = FleetKeys::new("w", OLD, None).unwrap();
        let shown = format!("{keys:?} {:?}", keys.derive("gossip"));
        assert_eq!(shown, "FleetKeys { .. } Seal { .. }");
    }
}
