"""The version of secateur, where files and records can read it without importing the rest."""

VERSION = "0.1.0"
