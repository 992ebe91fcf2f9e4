//! Instruction counts of the hot paths
