//! Aligned, pooled, reference-counted buffers for network and disk.
