# The last acts on a primary that is to be stopped: it comes back as a standby whatever happens to it. None of this takes
# effect while it runs, not even at a reload: so for whom its commits wait is left as it is.
sql -c "ALTER SYSTEM SET primary_conninfo = $conninfo" -c "ALTER SYSTEM SET primary_slot_name = $slot"
