//! Transports: framed TCP.
