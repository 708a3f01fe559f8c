//! What a person sees.

pub mod columns;
pub mod locale;
pub mod progress;
pub mod render;
