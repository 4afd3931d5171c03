# What former.sh did, undone: this primary goes on being one.
sql -c 'ALTER SYSTEM RESET primary_conninfo' -c 'ALTER SYSTEM RESET primary_slot_name'
