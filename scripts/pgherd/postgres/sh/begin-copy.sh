begin seeding
