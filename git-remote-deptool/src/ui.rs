//! What a person sees.

pub mod locale;
pub mod progress;
pub mod render;
