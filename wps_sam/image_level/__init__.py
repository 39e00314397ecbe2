"""From names of what is in a picture to masks, boxes and points: FMA-WSSS and SemPLeS, and what is better than both."""
