"""Which sample comes when and who shares a decode: pure arithmetic on arrays."""
