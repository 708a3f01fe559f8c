//! The host side: one connection, one deployment at a time.

pub mod action;
pub mod activate;
pub mod apply;
mod attach;
pub mod attempts;
pub mod boot;
pub mod broken;
pub mod checkout;
pub mod claims;
pub mod deploy;
pub mod door;
pub mod drift;
mod durable;
mod export;
pub mod finish;
pub mod health;
mod hold;
pub mod home;
pub mod journal;
pub mod lock;
mod lost;
pub mod outside;
pub mod owners;
pub mod peer;
pub mod prepare;
pub mod pulse;
mod receive;
pub mod recover;
pub mod session;
pub mod stage;
pub mod state;
pub mod store;
pub mod undo;
pub mod why;

#[cfg(test)]
mod tests;
