"""Pictures of what the engine recorded."""
