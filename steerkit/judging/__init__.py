"""What judges say: asked, checked, counted, compared on common units."""
