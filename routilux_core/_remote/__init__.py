"""What runs calls elsewhere, and takes home what came of them."""
