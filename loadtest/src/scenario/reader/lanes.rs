//! How a reader's pieces are dealt over the requests that it has in flight.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Order, Piece, Way};

/// One request at a time, of a queue that others may share.
#[derive(Debug)]
pub(super) struct Lane {
    queue: Arc<Mutex<VecDeque<Piece>>>,
    /// Whether a piece goes back to the end of the queue once it is taken.
    endless: bool,
    /// The gateway that its connection is to, whoever owns the piece.
    pub(super) bound: Option<usize>,
}

impl Lane {
    /// Takes the next piece; `None` when all are taken.
    pub(super) fn next(&self) -> Option<Piece> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = queue.pop_front()?;
        if self.endless {
            queue.push_back(piece);
        }
        Some(piece)
    }
}

/// The lanes of an order, over its pieces in ascending order.
pub(super) fn deal(order: &Order, mut pieces: Vec<Piece>) -> Vec<Lane> {
    if !pieces.is_empty() {
        let start = order.start % pieces.len();
        pieces.rotate_left(start);
    }
    if let Some(only) = order.only {
        let hot = pieces.iter().copied().min_by_key(|piece| {
            // The pieces are turned by now, so the one meant is known by where it begins.
            piece
                .first
                .abs_diff(only as u64 * (pieces[0].end - pieces[0].first))
        });
        pieces = hot.map_or(Vec::new(), |piece| vec![piece; pieces.len()]);
    }
    let endless = order.lasting.is_some();
    let gateways = order.gateways.len();
    let lane = |queue: &Arc<Mutex<VecDeque<Piece>>>, bound| Lane {
        queue: Arc::clone(queue),
        endless,
        bound,
    };
    let queue = |pieces: Vec<Piece>| Arc::new(Mutex::new(VecDeque::from(pieces)));
    match order.way {
        Way::Stream { .. } => vec![lane(&queue(pieces), None)],
        Way::Mapped { in_flight } => {
            let all = queue(pieces);
            (0..in_flight).map(|_| lane(&all, None)).collect()
        }
        Way::Balanced { connections, first } => {
            let all = queue(pieces);
            let bound = (0..connections).map(|number| (first + number) % gateways);
            bound.map(|gateway| lane(&all, Some(gateway))).collect()
        }
        Way::Each { connections } => (0..gateways)
            .flat_map(|gateway| {
                let owned = pieces.iter().filter(|piece| piece.gateway == gateway);
                let own = queue(owned.copied().collect());
                let lanes = (0..connections).map(|_| lane(&own, None));
                lanes.collect::<Vec<_>>()
            })
            .collect(),
    }
}
