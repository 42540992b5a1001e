"""Pure: from a snapshot of one service to what its packs shall be, and what to say of it."""
