"""What tasks have set aside for a group: to list, to put back, and to delete when told twice."""
