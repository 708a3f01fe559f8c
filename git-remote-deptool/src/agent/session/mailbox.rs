//! The queue in which messages and orders for a session arrive.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
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
pub struct Orders(Arc<Inbox>);

impl Orders {
    /// Give an order. It is ignored if the session has ended.
    pub fn give(&self, order: Order) {
        if matches!(order, Order::Send(Request::Cancel)) {
            self.0.is_cancelled.store(true, Ordering::Relaxed);
        }
        self.0.deliver(Arrival::Order(order));
    }
}

/// Where messages and orders for a session arrive. If the session is lost, another one can use the same mailbox, so no
/// order gets lost. Only one session at a time takes from it.
#[derive(Clone)]
pub struct Mailbox(pub(super) Arc<Inbox>);

pub(super) struct Inbox {
    sender: Sender<Arrival>,
    arrivals: Mutex<Receiver<Arrival>>,
    /// The number of connections that have delivered to this mailbox.
    pub connections: AtomicUsize,
    put_aside: Mutex<VecDeque<Order>>,
    is_cancelled: AtomicBool,
    on_arrival: Box<dyn Fn() + Send + Sync>,
}

impl Inbox {
    pub fn deliver(&self, arrival: Arrival) {
        // The receiver lives as long as the sender.
        let _ = self.sender.send(arrival);
        (self.on_arrival)();
    }
}

impl Mailbox {
    /// `on_arrival` is called whenever something has arrived.
    pub fn new(on_arrival: impl Fn() + Send + Sync + 'static) -> Mailbox {
        let (sender, arrivals) = channel();
        let inbox = Inbox {
            sender,
            arrivals: Mutex::new(arrivals),
            connections: AtomicUsize::new(0),
            put_aside: Mutex::default(),
            is_cancelled: AtomicBool::new(false),
            on_arrival: Box::new(on_arrival),
        };
        Mailbox(Arc::new(inbox))
    }

    /// The sender of orders for the session that uses this mailbox.
    pub fn orders(&self) -> Orders {
        Orders(self.0.clone())
    }

    /// Whether the order to cancel was given, even if an earlier session has used it up.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Relaxed)
    }

    /// Put an order aside that has arrived while a session waits for a message.
    pub(super) fn put_aside(&self, order: Order) {
        self.aside().push_back(order);
    }

    /// The first order that was put aside, also by an earlier session: its connection may have failed since.
    pub(super) fn take_aside(&self) -> Option<Order> {
        self.aside().pop_front()
    }

    fn aside(&self) -> MutexGuard<'_, VecDeque<Order>> {
        self.0.put_aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn arrivals(&self) -> MutexGuard<'_, Receiver<Arrival>> {
        self.0.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_a_lost_session_has_put_aside_is_there_for_the_next_one() {
        let mailbox = Mailbox::new(|| {});
        mailbox.clone().put_aside(Order::Send(Request::Revert));
        assert!(matches!(mailbox.take_aside(), Some(Order::Send(Request::Revert))));
        assert!(mailbox.take_aside().is_none());
    }
}
