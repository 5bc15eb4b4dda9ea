"""Packets to pictures, pictures to slots: one file per library."""
