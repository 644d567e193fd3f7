"""Reverse-mode differentiation of graphs: one engine that knows no operator, one table that knows them all."""
