//! The API server as a door, and what control writes back.
