rm -f /etc/pgherd/seeding
mv /etc/pgherd/initdb.pending /etc/pgherd/initdb.done
