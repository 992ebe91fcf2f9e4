//! Flow control: when to call, when to wait, when to stop calling.
