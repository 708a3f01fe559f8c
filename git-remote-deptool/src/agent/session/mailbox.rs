//! Where a session's messages and orders arrive.

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

/// What a session waits for. Messages carry the number of the connection that they came over.
pub(super) enum Arrival {
    Message(usize, Box<Response>),
    /// The stream has ended, well or badly.
    End(usize, Option<FrameError>),
    /// Something that our own side wants.
    Order(Order),
}

/// What the fleet tells one session.
#[derive(Debug)]
pub enum Order {
    Send(Request),
    /// The answer to [`Response::NeedFull`]: a pack that assumes nothing, and the blobs that go with it.
    Full(Payload),
}

/// What comes in.
#[derive(Debug)]
pub enum Event {
    Response(Response),
    Order(Order),
}

/// Gives orders to a session, from another thread, also before it is connected.
#[derive(Clone)]
pub struct Orders(Sender<Arrival>);

impl Orders {
    /// Give an order. It is ignored if the session has ended.
    pub fn give(&self, order: Order) {
        let _ = self.0.send(Arrival::Order(order));
    }
}

/// Where a session's messages and orders arrive. When a session is lost another one can take its place, so that no order
/// gets lost with it. One session at a time takes from it.
#[derive(Clone)]
pub struct Mailbox(pub(super) Arc<Inbox>);

pub(super) struct Inbox {
    pub sender: Sender<Arrival>,
    arrivals: Mutex<Receiver<Arrival>>,
    /// How many connections have delivered here.
    pub connections: AtomicUsize,
}

impl Mailbox {
    #[allow(clippy::new_without_default)]
    pub fn new() -> Mailbox {
        let (sender, arrivals) = channel();
        let arrivals = Mutex::new(arrivals);
        Mailbox(Arc::new(Inbox { sender, arrivals, connections: AtomicUsize::new(0) }))
    }

    /// For giving orders to the session that gets this mailbox.
    pub fn orders(&self) -> Orders {
        Orders(self.0.sender.clone())
    }

    /// The next order if one comes within `wait`, while there is no session.
    pub fn order_within(&self, wait: Duration) -> Option<Order> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.arrivals().recv_timeout(left) {
                Ok(Arrival::Order(order)) => return Some(order),
                // What a session that has ended left behind.
                Ok(Arrival::Message(..) | Arrival::End(..)) => {}
                Err(_) => return None,
            }
        }
    }

    pub(super) fn arrivals(&self) -> MutexGuard<'_, Receiver<Arrival>> {
        self.0.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
