"""The registration of each consumer at the core: an entry point each, so that only what is configured is imported."""
