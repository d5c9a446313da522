//! One reader: asks for an object's extents over its own link, checks every byte, and goes on where it was when
//! a body is cut, a connection refused or an answer a 5xx: at the next gateway, at once.

mod lanes;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::FuturesUnordered;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use self::lanes::Lane;
use super::DATASET;
use crate::client::{Ask, Client, Meter, Outcome, Route, Want};
use crate::gateway::exchange;
use crate::namespace::Namespace;

/// A reader that gets no byte of a body for so long has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Between two rounds over all gateways in which nobody gave a byte: a reader is no attack.
const ROUND: Duration = Duration::from_millis(20);

/// What is placed together: one block of an object below this size, else four.
const SMALL: u64 = 256 << 20;

/// The extents of an object: pairs of their first byte and the one after the last.
pub(super) fn extents(size: u64) -> Vec<(u64, u64)> {
    let length = if size < SMALL { 1 << 20 } else { 4 << 20 };
    let firsts = (0..size).step_by(length as usize);
    firsts
        .map(|first| (first, size.min(first + length)))
        .collect()
}

/// How a reader spreads over the gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Each extent is asked of the gateway that `/-/plan` names, so many requests in flight.
    Mapped { in_flight: usize },
    /// So many connections to each gateway, on which it is asked for what it owns, one extent after another.
    Each { connections: usize },
    /// So many connections dealt round robin over the gateways, beginning with the gateway `first`.
    Balanced { connections: usize, first: usize },
    /// One GET of the whole object, of this gateway.
    Stream { gateway: usize },
}

/// What a reader is to do.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) from: Namespace,
    pub(super) gateways: Arc<[SocketAddr]>,
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) way: Way,
    /// The extent that it begins with; it wraps at the end.
    pub(super) start: usize,
    /// Only this extent, again and again, as often as the object has extents: one hot block.
    pub(super) only: Option<usize>,
    /// Only what this gateway owns.
    pub(super) owned_by: Option<usize>,
    /// The gateway that tells the plan; `None`: the extents are dealt over the gateways in order.
    pub(super) plan: Option<usize>,
    /// Reads the object again and again for so long, and is then cut off.
    pub(super) lasting: Option<Duration>,
}

/// What became of a reader.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Reading {
    /// From the start to the last byte, in seconds.
    pub(super) took: f64,
    /// From the start to the first.
    pub(super) first_byte: Option<f64>,
    /// The longest from a request to the first byte of its answer.
    pub(super) slowest_first_byte: f64,
    /// The longest that none of its connections got a byte.
    pub(super) longest_gap: f64,
    /// Bytes that came and were right.
    pub(super) bytes: u64,
    /// Bodies that were gone on with elsewhere.
    pub(super) resumed: u64,
    /// Answers with a 5xx.
    pub(super) refused: u64,
    /// Why it is not complete.
    pub(super) failed: Option<String>,
    /// What was wrong in what came.
    pub(super) wrong: Vec<String>,
}

/// An extent, and the gateway to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    first: u64,
    end: u64,
    gateway: usize,
}

/// Reads what is ordered, to the end or to the first failure.
pub(super) async fn read(order: Order, meter: Arc<Meter>) -> Reading {
    let reader = Reader {
        idle: order.gateways.iter().map(|_| Mutex::default()).collect(),
        begun: Instant::now(),
        reading: Mutex::default(),
        meter,
        order,
    };
    reader.meter.begin();
    let outcome = match reader.order.lasting {
        Some(time) => tokio::time::timeout(time, reader.run())
            .await
            .unwrap_or(Ok(())),
        None => reader.run().await,
    };
    let mut reading = reader.reading().clone();
    if let Err(error) = outcome {
        reading.failed = Some(format!("{error:#}"));
    }
    reading.took = reader.begun.elapsed().as_secs_f64();
    reading.longest_gap = reader.meter.longest_gap().as_secs_f64();
    reading.bytes = reader.meter.bytes();
    reading
}

struct Reader {
    order: Order,
    meter: Arc<Meter>,
    begun: Instant,
    /// Open connections to each gateway.
    idle: Vec<Mutex<Vec<Client>>>,
    reading: Mutex<Reading>,
}

impl Reader {
    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self) -> anyhow::Result<()> {
        let mut pieces = self.pieces().await?;
        if let Some(owner) = self.order.owned_by {
            pieces.retain(|piece| piece.gateway == owner);
        }
        let lanes = lanes::deal(&self.order, pieces);
        // One task for a reader: its lanes take turns, and the first that fails ends it.
        let running: FuturesUnordered<_> = lanes.into_iter().map(|lane| self.lane(lane)).collect();
        running.try_collect().await
    }

    async fn lane(&self, lane: Lane) -> anyhow::Result<()> {
        while let Some(piece) = lane.next() {
            self.piece(
                lane.bound
                    .map_or(piece, |gateway| Piece { gateway, ..piece }),
            )
            .await?;
        }
        Ok(())
    }

    /// Reads one extent, from wherever it is to be had.
    async fn piece(&self, piece: Piece) -> anyhow::Result<()> {
        let Piece {
            mut first,
            end,
            mut gateway,
        } = piece;
        let (mut progress, mut fruitless) = (Instant::now(), 0);
        while first < end {
            let asked = Instant::now();
            let mut client = self.client(gateway)?;
            let ask = Ask::new(&self.order.key, self.want(first, end));
            let read = client.read(&ask).await;
            if read.bytes > 0 {
                self.began(asked, read.first_byte_after.unwrap_or(read.took));
                (progress, fruitless) = (Instant::now(), 0);
            }
            first += read.bytes;
            match read.outcome {
                Outcome::Whole if read.version == Some(0) => {
                    self.idle[gateway]
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(client);
                    return Ok(());
                }
                Outcome::Whole => bail!("version {:?} of an object that has only 0", read.version),
                Outcome::Wrong(what) | Outcome::Mixed(what) => {
                    self.reading().wrong.push(what.clone());
                    bail!("wrong bytes: {what}");
                }
                Outcome::Status(status) if status < 500 => bail!("status {status}"),
                Outcome::Status(_) => self.reading().refused += 1,
                Outcome::Cut(what) | Outcome::Unanswered(what) if read.gave_up => bail!("{what}"),
                Outcome::Cut(_) | Outcome::Unanswered(_) => {}
            }
            self.reading().resumed += 1;
            gateway = (gateway + 1) % self.order.gateways.len();
            fruitless += 1;
            if progress.elapsed() >= PATIENCE {
                bail!("no byte for {PATIENCE:?} from any gateway");
            }
            if fruitless % self.order.gateways.len() == 0 {
                tokio::time::sleep(ROUND).await;
            }
        }
        Ok(())
    }

    fn began(&self, asked: Instant, after: Duration) {
        let since_start = (asked - self.begun + after).as_secs_f64();
        let mut reading = self.reading();
        reading.slowest_first_byte = reading.slowest_first_byte.max(after.as_secs_f64());
        let first = reading.first_byte.unwrap_or(since_start).min(since_start);
        reading.first_byte = Some(first);
    }

    /// The whole object is asked for without a range, as the plainest of clients do.
    fn want(&self, first: u64, end: u64) -> Want {
        match (first, end) {
            (0, end) if end == self.order.size && self.is_stream() => Want::Whole,
            (first, end) if end == self.order.size && self.is_stream() => Want::Open(first),
            (first, end) => Want::Range(first, end - 1),
        }
    }

    fn is_stream(&self) -> bool {
        matches!(self.order.way, Way::Stream { .. })
    }

    fn client(&self, gateway: usize) -> anyhow::Result<Client> {
        let idle = self.idle[gateway]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(client) = idle {
            return Ok(client);
        }
        let url = format!("http://{}/{DATASET}", self.order.gateways[gateway]);
        Ok(Client::new(&url)?
            .from(&self.order.from)
            .metered(&self.meter)
            .patience(PATIENCE))
    }

    /// The extents with their owners, in ascending order.
    async fn pieces(&self) -> anyhow::Result<Vec<Piece>> {
        let count = self.order.gateways.len();
        if let Way::Stream { gateway } = self.order.way {
            let end = self.order.size;
            return Ok(vec![Piece {
                first: 0,
                end,
                gateway,
            }]);
        }
        let dealt = extents(self.order.size);
        let Some(teller) = self.order.plan else {
            let pieces = dealt.into_iter().enumerate();
            return Ok(pieces
                .map(|(index, (first, end))| Piece {
                    first,
                    end,
                    gateway: index % count,
                })
                .collect());
        };
        let path = format!("/-/plan/{DATASET}/{}", self.order.key);
        let authority = self.order.gateways[teller].to_string();
        let route = Route::within(&self.order.from);
        let asked = Box::pin(exchange(
            &authority,
            &route,
            Method::GET,
            &path,
            Bytes::new(),
        ));
        let (status, body) = tokio::time::timeout(PATIENCE, asked)
            .await
            .context("no plan in time")?
            .with_context(|| format!("ask {authority} for the plan"))?;
        if status != StatusCode::OK {
            bail!("{path} answers {status}");
        }
        let plan: Planned = serde_json::from_slice(&body).context("read the plan")?;
        plan.pieces(&self.order)
    }
}

/// What `/-/plan` answers, as far as a reader needs it.
#[derive(Debug, Deserialize)]
struct Planned {
    size: u64,
    extents: Vec<PlannedExtent>,
}

#[derive(Debug, Deserialize)]
struct PlannedExtent {
    first: u64,
    last: u64,
    url: String,
}

impl Planned {
    fn pieces(&self, order: &Order) -> anyhow::Result<Vec<Piece>> {
        let mut pieces = Vec::with_capacity(self.extents.len());
        let mut at = 0;
        for extent in &self.extents {
            let owner = order
                .gateways
                .iter()
                .position(|address| extent.url.starts_with(&format!("http://{address}/")));
            let gateway = owner.with_context(|| format!("the plan names {:?}", extent.url))?;
            if extent.first != at || extent.last < extent.first {
                bail!("the plan's extents are not in order at byte {at}");
            }
            at = extent.last + 1;
            pieces.push(Piece {
                first: extent.first,
                end: at,
                gateway,
            });
        }
        if self.size != order.size || at != order.size {
            bail!("the plan is for {at} of {} bytes", order.size);
        }
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order {
            from: Namespace::own(),
            gateways: ["10.77.2.1:7070", "10.77.2.2:7070"]
                .map(|text| text.parse().expect("an address"))
                .into(),
            key: "a".to_owned(),
            size: 3 << 20,
            way: Way::Mapped { in_flight: 4 },
            start: 0,
            only: None,
            owned_by: None,
            plan: Some(0),
            lasting: None,
        }
    }

    #[test]
    fn a_plan_becomes_pieces_and_a_hole_in_it_is_refused() {
        let text = |last: u64| {
            format!(
                r#"{{"etag":"x","size":3145728,"epoch":"e","extents":[
                {{"first":0,"last":1048575,"member":"b","url":"http://10.77.2.2:7070/models/a"}},
                {{"first":1048576,"last":{last},"member":"a","url":"http://10.77.2.1:7070/models/a"}}]}}"#
            )
        };
        let plan: Planned = serde_json::from_str(&text(3_145_727)).expect("a plan");
        let pieces = plan.pieces(&order()).expect("whole");
        assert_eq!((pieces[0].gateway, pieces[1].gateway), (1, 0));
        assert_eq!((pieces[1].first, pieces[1].end), (1 << 20, 3 << 20));
        let plan: Planned = serde_json::from_str(&text(3_145_726)).expect("a plan");
        plan.pieces(&order()).expect_err("a byte is missing");
    }

    #[test]
    fn extents_are_a_block_or_four() {
        assert_eq!(extents((16 << 20) + 1).len(), 17);
        assert_eq!(extents(256 << 20).len(), 64);
        assert_eq!(extents(1), [(0, 1)]);
    }
}
