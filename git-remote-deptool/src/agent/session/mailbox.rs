//! The queue in which messages and orders for a session arrive.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::AtomicUsize,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use deptool_agent::shared::{
    frame::FrameError,
    wire::{Request, Response},
};

use crate::agent::payload::Payload;

/// An entry of the queue. Messages carry the number of the connection that they were received on.
pub(super) enum Arrival {
    Message(usize, Box<Response>),
    /// The end of the stream, with the error if there was one.
    End(usize, Option<FrameError>),
    /// An order from our own side.
    Order(Order),
}

/// An instruction from the fleet to one session.
#[derive(Debug)]
pub enum Order {
    Send(Request),
    /// The answer to [`Response::NeedFull`]: a pack that does not assume any objects on the host, and its large blobs.
    Full(Payload),
}

/// What a session takes from its mailbox.
#[derive(Debug)]
pub enum Event {
    Response(Response),
    Order(Order),
}

/// Gives orders to a session from another thread, even before it is connected.
#[derive(Clone)]
pub struct Orders(Sender<Arrival>);

impl Orders {
    /// Give an order. It is ignored if the session has ended.
    pub fn give(&self, order: Order) {
        let _ = self.0.send(Arrival::Order(order));
    }
}

/// Where messages and orders for a session arrive. If the session is lost, another one can use the same mailbox, so no
/// order gets lost. Only one session at a time takes from it.
#[derive(Clone)]
pub struct Mailbox(pub(super) Arc<Inbox>);

pub(super) struct Inbox {
    pub sender: Sender<Arrival>,
    arrivals: Mutex<Receiver<Arrival>>,
    /// The number of connections that have delivered to this mailbox.
    pub connections: AtomicUsize,
}

impl Mailbox {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Mailbox {
        let (sender, arrivals) = channel();
        let arrivals = Mutex::new(arrivals);
        Mailbox(Arc::new(Inbox { sender, arrivals, connections: AtomicUsize::new(0) }))
    }

    /// The sender of orders for the session that uses this mailbox.
    pub fn orders(&self) -> Orders {
        Orders(self.0.sender.clone())
    }

    /// The next order within `wait`, while there is no session.
    pub fn order_within(&self, wait: Duration) -> Option<Order> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.arrivals().recv_timeout(left) {
                Ok(Arrival::Order(order)) => return Some(order),
                // Left over from a session that has ended.
                Ok(Arrival::Message(..) | Arrival::End(..)) => {}
                Err(_) => return None,
            }
        }
    }

    pub(super) fn arrivals(&self) -> MutexGuard<'_, Receiver<Arrival>> {
        self.0.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
