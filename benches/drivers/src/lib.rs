//! Programs that drain the stand-in queue: redrive, and a loop over the bare SDK
