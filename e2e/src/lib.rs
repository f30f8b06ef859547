//! Starts real servers and drives the real binary, as a person would.
