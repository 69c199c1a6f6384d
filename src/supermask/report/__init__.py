"""Results to tables: reads run folders through `supermask.lab.store`, never trains, never imports torch."""
