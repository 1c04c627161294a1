//! The keeper of the World.
