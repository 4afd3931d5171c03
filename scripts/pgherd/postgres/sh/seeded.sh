rm -f /etc/pgherd/seeding /etc/pgherd/initdb.pending
touch /etc/pgherd/initdb.done
