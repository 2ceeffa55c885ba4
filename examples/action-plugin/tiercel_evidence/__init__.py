"""Actions for Tiercel that keep evidence."""
