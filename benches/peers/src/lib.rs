//! Programs that drain the stand-in queue with other frameworks
