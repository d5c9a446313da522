//! Blocks that change hands when members come and go, before anybody reads them.
//!
//! | module | its part |
//! |---|---|
//! | `list` | what a gateway holds of what another owns by now, the hottest first; and how that is told |
//! | `hot` | what is hottest in the whole fleet, as a list to bring it back by |
//! | `take` | bringing such blocks from whoever holds them, never from the origin |
//! | `turns` | bringing one part after the other, at a quarter of the link |
//! | `give` | a gateway that drains asks those that own its blocks next to take them |
//!
//! Whoever has come to own something takes it from those who owned it a moment ago ([`forebay_ring::Donors`]), the
//! hottest first, at a quarter of its link and behind its readers. What a reader wants before it has its turn comes by the
//! same way, at once (`read::route`).

mod give;
mod hot;
mod list;
mod take;
mod turns;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use forebay_ring::{Donors, Fleet};
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::task::JoinError;
use tokio::time::Instant;

use self::list::{Held, Listed, Look};
use self::turns::{Pace, Turn};
use crate::dialect::peer::nothing;
use crate::link::Link;
use crate::peer::{NO_PROGRESS, PeerBody, PeerError, Peers, wire};
use crate::read::route::WARMING;
use crate::warm::place::Crew;

/// Where a member is asked what it holds.
const LIST: &str = "/handover/list";
/// Where it is asked to take blocks over.
const TAKE: &str = "/handover/take";
/// Where it is asked what is hottest of what it owns.
const HOT: &str = "/handover/hot";

/// No question is longer, and no answer.
const LONGEST: usize = 16 << 20;

/// Blocks that one page of a list tells of.
const PAGE: u64 = 16 * 1024;

/// A donor whose table is another is asked again after so long, and so often.
const AGAIN: Duration = Duration::from_secs(1);
const TRIES: u32 = 5;

/// How long the fleet has to be as it is before anything is taken over ahead of readers.
const SETTLES: Duration = Duration::from_millis(500);

/// Lists that are asked for at once.
const ASKED_AT_ONCE: usize = 8;

/// Among so many blocks at most whoever looks does so at once, sooner than another thread would wake.
const FEW: u64 = 1024;

/// How long a gateway waits until its table is that of whoever asks it.
const SAME_TABLE: Duration = Duration::from_secs(2);

/// A gateway's part in handing over.
#[derive(Debug)]
pub struct Handover {
    crew: Arc<Crew>,
    link: Arc<Link>,
    /// Blocks and bytes that are still to come, or to go.
    blocks: AtomicU64,
    bytes: AtomicU64,
    /// How long a gateway that leaves may take to hand over; unset where it has nobody to hand anything over to.
    within: OnceLock<Duration>,
    given: OnceCell<()>,
}

/// What came of looking at one donor's list.
#[derive(Debug)]
enum Page {
    Some {
        held: Vec<Held>,
        more: bool,
        /// What the donor's link carries at least; zero: not known.
        link: u64,
    },
    /// It has another table, or does not answer.
    Later,
}

impl Page {
    /// That of a donor which has nothing to tell.
    fn none() -> Self {
        Self::Some {
            held: Vec::new(),
            more: false,
            link: 0,
        }
    }
}

impl Handover {
    /// That of the gateway with this crew, behind `link`.
    pub fn new(crew: Crew, link: Arc<Link>) -> Self {
        Self {
            crew: Arc::new(crew),
            link,
            blocks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            within: OnceLock::new(),
            given: OnceCell::new(),
        }
    }

    /// Says how long handing over may take when this gateway leaves. The first word stays.
    pub fn set_time(&self, within: Duration) {
        let _ = self.within.set(within);
    }

    /// Blocks and bytes that are still to come, or to go.
    pub fn moving(&self) -> (u64, u64) {
        let load = |number: &AtomicU64| number.load(Ordering::Acquire);
        (load(&self.blocks), load(&self.bytes))
    }

    fn set_moving(&self, blocks: u64, bytes: u64) {
        self.blocks.store(blocks, Ordering::Release);
        self.bytes.store(bytes, Ordering::Release);
        if let Some(peers) = &self.crew.reads.peers {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            peers.metrics.moves.moving.set(bytes);
        }
    }

    fn moved(&self, blocks: u64, bytes: u64) {
        let (left, left_bytes) = self.moving();
        self.set_moving(
            left.saturating_sub(blocks),
            left_bytes.saturating_sub(bytes),
        );
    }

    /// Takes over what this gateway has come to own by its own coming. What moves to it as others come it leaves to
    /// readers, who get it from the same donors. It never ends where there is a fleet.
    pub async fn keep(self: Arc<Self>) {
        let Some(peers) = self.crew.reads.peers.clone() else {
            return;
        };
        let mut fleets = peers.watch();
        let mut arrived = None;
        loop {
            let fleet = Arc::clone(&fleets.borrow_and_update());
            let owner = fleet.table.member(&fleet.own);
            let owns = owner.is_some_and(|own| own.weight() > 0);
            let arrival = fleet.donors.arrival();
            let taking = async {
                if owns && arrival.is_some() && arrival != arrived {
                    // Many may come together, and what the first of them owns now is another's in a moment.
                    tokio::time::sleep(SETTLES).await;
                    self.take_over(&peers, &fleet).await;
                    arrived = arrival;
                }
                std::future::pending::<()>().await;
            };
            let other = |now: &Arc<Fleet>| !Arc::ptr_eq(&now.donors, &fleet.donors);
            let changed = tokio::select! {
                biased;
                changed = fleets.wait_for(other) => changed.is_ok(),
                () = taking => true,
            };
            self.set_moving(0, 0);
            if !changed {
                return;
            }
        }
    }

    /// Takes what this gateway owns in `fleet` from those who owned it before, as far as there is room.
    async fn take_over(&self, peers: &Arc<Peers>, fleet: &Arc<Fleet>) {
        let names = fleet.donors.names(&fleet.own).into_iter();
        let mut asked: Vec<(&str, u64)> = names.map(|name| (name, 0)).collect();
        let donors = asked.len();
        let begun = Instant::now();
        let mut pace = Pace::new(self.link.rate());
        let mut taken = Taken::default();
        let mut tries = 0;
        while !asked.is_empty() {
            let pages = self.pages(peers, fleet, &asked).await;
            let mut next = Vec::new();
            let mut turns = Vec::new();
            let mut later = false;
            for ((name, skip), page) in asked.into_iter().zip(pages) {
                match page {
                    Page::Later => {
                        later = true;
                        next.push((name, skip));
                    }
                    Page::Some { held, more, link } => {
                        pace.hears(link);
                        next.extend(more.then_some((name, skip + PAGE)));
                        let held = held.into_iter().enumerate();
                        turns.extend(held.map(|(place, held)| Turn {
                            place,
                            donor: name.to_owned(),
                            held,
                        }));
                    }
                }
            }
            // The hottest of each before the next of any.
            turns.sort_by_key(|turn| turn.place);
            let turns = (turns, donors);
            if !self.take_turns(peers, turns, &mut pace, &mut taken).await {
                break;
            }
            asked = next;
            tries += u32::from(later);
            if later && tries >= TRIES {
                taken.short = true;
                break;
            }
            if later {
                tokio::time::sleep(AGAIN).await;
            }
        }
        if !taken.short {
            peers.spend(&fleet.donors);
        }
        if taken.bytes > 0 {
            tracing::info!(
                blocks = taken.blocks,
                bytes = taken.bytes,
                all = !taken.short,
                seconds = begun.elapsed().as_secs_f64(),
                "taken over from those who owned it before"
            );
        }
    }

    /// What each of these donors holds of what is ours, from so many blocks on.
    async fn pages(
        &self,
        peers: &Arc<Peers>,
        fleet: &Arc<Fleet>,
        asked: &[(&str, u64)],
    ) -> Vec<Page> {
        let look = |(name, skip): &(&str, u64)| {
            let (name, skip) = ((*name).to_owned(), *skip);
            let look = Look {
                epoch: fleet.table.epoch().to_owned(),
                skip,
                count: PAGE,
            };
            async move {
                if !peers.gives(fleet, &name) {
                    // It may be silent for a moment, or speak an older protocol for good.
                    let known = fleet.peer(&name);
                    let old = known.is_none_or(|peer| peer.protocol < wire::HANDS_OVER);
                    return match old {
                        true => Page::none(),
                        false => Page::Later,
                    };
                }
                match ask::<Listed>(peers, &name, LIST, &look).await {
                    Ok(listed) => {
                        let more = listed.more;
                        if skip == 0 {
                            let (blocks, bytes) = self.moving();
                            self.set_moving(blocks + listed.blocks, bytes + listed.bytes);
                        }
                        Page::Some {
                            link: listed.link,
                            more,
                            held: listed.held(&self.crew.datasets),
                        }
                    }
                    Err(error) => {
                        tracing::debug!(member = name, %error, "a donor does not tell what it holds");
                        Page::Later
                    }
                }
            }
        };
        let looks = futures::stream::iter(asked.iter().map(look));
        looks.buffered(ASKED_AT_ONCE).collect().await
    }

    /// Hands this gateway's hottest blocks over to those who own them next: once, as far as there is time. Returns at
    /// once where there is nobody. Dropped, it may be called again.
    pub async fn give(&self) {
        if let Some(within) = self.within.get() {
            self.given.get_or_init(|| give::all(self, *within)).await;
        }
    }

    /// The hottest objects of the whole fleet, a line of JSON each, and the members that did not tell.
    pub async fn hottest(&self) -> (String, Vec<String>) {
        hot::of_all(&self.crew, self.crew.reads.peers.as_ref()).await
    }

    /// Answers what another member, `from`, asks; `None`: that is no such question.
    pub async fn answer<B>(
        &self,
        from: &str,
        method: &Method,
        path: &str,
        draining: bool,
        body: B,
    ) -> Option<Response<PeerBody>>
    where
        B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static>,
    {
        let known = wire::newest() >= wire::HANDS_OVER && [LIST, TAKE, HOT].contains(&path);
        if *method != Method::POST || !known {
            return None;
        }
        let peers = self.crew.reads.peers.as_ref()?;
        let body = Limited::new(body, LONGEST).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let answered = match path {
            HOT => Ok(json(&Listed::of(&hot::own(&self.crew, Some(peers)).await))),
            LIST => match serde_json::from_slice(&body) {
                Ok(look) => {
                    let link = self.link.rate();
                    list::answer(&self.crew, (peers, from), look, link).await
                }
                Err(_) => Err("it can't read that"),
            },
            _ if draining => Err("it is leaving itself"),
            _ => match serde_json::from_slice(&body) {
                Ok(listed) => take::answer(&self.crew, peers, from, listed).await,
                Err(_) => Err("it can't read that"),
            },
        };
        Some(answered.unwrap_or_else(|reason| {
            let (status, headers) = wire::refusal(StatusCode::CONFLICT, reason);
            let mut response = Response::new(nothing());
            (*response.status_mut(), *response.headers_mut()) = (status, headers);
            response
        }))
    }
}

/// What was taken over.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Taken {
    blocks: u64,
    bytes: u64,
    /// There was more.
    #[serde(default)]
    short: bool,
}

/// Waits until the fleet is as `wanted`, for a while; whether it is.
async fn until(peers: &Peers, wanted: impl FnMut(&Arc<Fleet>) -> bool) -> bool {
    let mut fleets = peers.watch();
    let fleet = tokio::time::timeout(SAME_TABLE, fleets.wait_for(wanted)).await;
    matches!(fleet, Ok(Ok(_)))
}

/// Whether a member owned an extent in one of these tables.
fn owned_before(donors: &Donors, own: &str, object: (&str, &str), extent: (u64, u64)) -> bool {
    donors.tables().iter().any(|table| {
        let owner = table.owner(object.0, object.1, extent.0, extent.1);
        owner.is_some_and(|owner| owner.name() == own)
    })
}

/// Looks at all that is cached, which is so many blocks, where that holds nobody up.
async fn aside<T: Send + 'static>(
    blocks: u64,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    match blocks <= FEW {
        true => Ok(look()),
        false => forebay_storage::aside::aside(look).await,
    }
}

async fn ask<T: for<'de> Deserialize<'de>>(
    peers: &Arc<Peers>,
    name: &str,
    path: &str,
    question: &impl Serialize,
) -> Result<T, PeerError> {
    // Numbers and texts always serialise.
    let body = serde_json::to_vec(question).unwrap_or_default();
    let mut request = Request::new(Bytes::from(body));
    *request.method_mut() = Method::POST;
    wire::set_path(&mut request, path);
    let asked = peers.ask(name, WARMING, request).await?;
    let body = Limited::new(asked.body, LONGEST).collect();
    let body = tokio::time::timeout(NO_PROGRESS, body).await;
    let body = body.map_err(|_| PeerError::Stalled)?;
    let body = body.map_err(|_| PeerError::Cut)?.to_bytes();
    serde_json::from_slice(&body).map_err(|_| PeerError::Corrupt)
}

fn json(answer: &impl Serialize) -> Response<PeerBody> {
    let text = serde_json::to_vec(answer).unwrap_or_default();
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    Response::new(body.boxed_unsync())
}
