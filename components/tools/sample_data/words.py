"""The labels of the sample data: names, places, everyday words and numbers.

The lists are our own selection of common names and words. Some words carry accents, spaces, hyphens or
apostrophes, some are written in capitals as on forms, and some are numbers, because a data set that
lacks them hides the mistakes a pipeline makes with them (`7647` read as an integer, `é` in two code points).
"""

_FIRST_NAMES = """
Aaron, Abigail, Adam, Adele, Adrian, Agnes, Ahmed, Aisha, Alan, Albert, Alessia, Alex, Alice, Amelia, Amir, Amy,
Ana, Andrea, Andrew, Anita, Anna, Anton, Antonio, Arthur, Astrid, Audrey, Axel, Barbara, Beatrice, Ben, Bernard,
Bianca, Boris, Brian, Bruno, Camille, Carl, Carlos, Carmen, Caroline, Cecilia, Charles, Chiara, Chloe, Chris,
Clara, Claude, Colin, Cyril, Daniel, David, Denise, Dennis, Diana, Diego, Dominic, Dora, Doris, Edgar, Edith,
Edward, Elena, Elias, Elizabeth, Ella, Emil, Emily, Emma, Eric, Ernest, Esther, Eva, Fatima, Felix, Fiona,
Florence, Francis, Frank, Fred, Gabriel, George, Gerald, Gina, Gloria, Grace, Greta, Guido, Gustav, Hamid, Hanna,
Harold, Harry, Hassan, Heidi, Helen, Henry, Hugo, Ian, Ibrahim, Ida, Igor, Ingrid, Irene, Isaac, Isabel, Ivan,
Jack, Jacob, James, Jan, Jane, Jasmine, Jason, Jessica, Joan, Joel, John, Jonas, Joseph, Joyce, Juan, Judith,
Julia, Julian, Karen, Karim, Kate, Kenji, Kevin, Kim, Klaus, Kurt, Lars, Laura, Layla, Lea, Leo, Leon, Liam, Lily,
Linda, Lisa, Louis, Lucas, Lucy, Luigi, Luis, Lydia, Magnus, Marco, Margaret, Maria, Marie, Mark, Martha, Martin,
Mary, Matthew, Max, Maya, Mia, Michael, Miguel, Mila, Mohamed, Monica, Nadia, Nancy, Naomi, Natalie, Nina, Noah,
Nora, Olga, Oliver, Olivia, Omar, Oscar, Otto, Pablo, Patricia, Paul, Paula, Pedro, Peter, Philip, Pierre, Quentin,
Quincy,
Rachel, Ralf, Rebecca, Rita, Robert, Roger, Rosa, Ruth, Samuel, Sandra, Sara, Sergio, Simon, Sofia, Stefan, Susan,
Sylvia, Tamara, Theo, Thomas, Tim, Tom, Ursula, Valerie, Vera, Victor, Vincent, Viola, Walter, Wendy, William,
Xavier, Xenia, Yasmin, Yolanda, Yuki, Yves, Yvonne, Zara, Zelda, Zoe
"""

_SURNAMES = """
Adams, Allen, Anderson, Bailey, Baker, Barnes, Becker, Bell, Bennett, Bernard, Brooks, Brown, Butler, Campbell,
Carter, Clark, Cohen, Collins, Cook, Cooper, Cox, Cruz, Davies, Davis, Diaz, Dixon, Dubois, Edwards, Evans, Ferrari,
Fischer, Fisher, Flores, Ford, Foster, Fox, Garcia, Gibson, Gomez, Gonzalez, Gray, Green, Hall, Hansen, Harris,
Hayes, Henderson, Hill, Hoffmann, Howard, Hughes, Hunt, Jackson, Jansen, Jenkins, Jensen, Johnson, Jones, Keller,
Kelly, Khan, King, Klein, Knight, Koch, Kowalski, Kumar, Lambert, Larsen, Lee, Lefebvre, Leroy, Lewis, Long, Lopez,
Marshall, Mason, Meyer, Miller, Mills, Mitchell, Moore, Moreau, Morgan, Morris, Murphy, Murray, Myers, Nelson,
Newman, Nguyen, Novak, Olsen, Palmer, Parker, Patel, Perez, Perry, Petit, Phillips, Powell, Price, Quinn, Ramirez,
Reed, Reyes, Richards, Rivera, Roberts, Robinson, Rogers, Romano, Ross, Rossi, Roux, Russell, Sanders, Santos,
Schmidt, Schneider, Schulz, Scott, Shaw, Silva, Simpson, Singh, Smith, Stewart, Suzuki, Svensson, Tanaka, Taylor,
Thompson, Torres, Tucker, Turner, Vargas, Vogel, Wagner, Walker, Wallace, Ward, Watson, Weber, West, White,
Williams, Wilson, Wolf, Wood, Wright, Yamamoto, Xu, Yang, Young, Zhang, Zimmermann
"""

_PLACES = """
Accra, Amsterdam, Ankara, Athens, Austin, Baghdad, Baku, Bangkok, Barcelona, Basel, Belfast, Belgrade, Berlin, Bern,
Bologna, Boston, Bremen, Bristol, Brussels, Budapest, Cairo, Cardiff, Chicago, Cologne, Copenhagen, Cork, Dakar,
Dallas, Delhi, Denver, Dresden, Dublin, Dundee, Edinburgh, Florence, Frankfurt, Geneva, Genoa, Ghent, Glasgow,
Hamburg, Hanoi, Havana, Helsinki, Houston, Istanbul, Jakarta, Kiel, Kyoto, Lagos, Leeds, Leipzig, Lima, Lisbon,
Liverpool, London, Lyon, Madrid, Manila, Marseille, Melbourne, Miami, Milan, Montreal, Moscow, Mumbai, Munich,
Nairobi, Nantes, Naples, Oslo, Ottawa, Oxford, Paris, Perth, Porto, Prague, Qatar, Quebec, Quito, Riga, Rome, Rotterdam,
Salzburg, Santiago, Seattle, Seoul, Seville, Sofia, Stockholm, Stuttgart, Sydney, Tallinn, Tokyo, Toronto, Toulouse,
Tunis, Turin, Utrecht, Valencia, Venice, Vienna, Vilnius, Warsaw, York, Zagreb, Zurich
"""

_WORDS = """
above, account, across, address, after, again, almost, always, amount, animal, answer, apple, autumn, avenue, balance,
basket, before, begin, believe, better, between, bicycle, birthday, blue, board, bottle, bread, breakfast, bridge,
bring, brother, building, butter, cabinet, calendar, camera, capital, careful, carry, castle, chair, change, cheese,
child, church, circle, clock, cloud, coffee, colour, company, copy, corner, country, cousin, daily, dance, daughter,
December, delivery, dentist, dinner, doctor, double, dozen, dream, during, early, east, eight, eleven, engine, enjoy,
enough, evening, every, exactly, example, exercise, family, farmer, father, February, field, fifty, figure, fish,
flower, follow, forest, forty, forward, fresh, Friday, friend, fruit, garage, garden, glass, gold, grocery, guest,
happy, harbour, heavy, holiday, honey, horse, hospital, hotel, house, hundred, husband, injury, island, January,
jacket, journey, juice, July, June, jungle, kettle, key, kitchen, kiwi, knife, ladder, language, lawyer, leather,
lemon, letter, library, light, little, lucky, lunch, machine, market, maximum, measure, medicine, midnight, milk,
minute, mirror, Monday, money, month, morning, mother, mountain, museum, music, nature, needle, never, night, nine,
north, notebook, November, nurse, October, office, often, opening, orange, order, oxygen, package, paint, paper,
parcel, parking, pencil, people, pepper, piano, picture, plate, please, pocket, police, potato, problem, project,
pupil, purple, quality, quarter, queen, question, quick, quiet, rabbit, railway, reason, receipt, record, remember,
rental, repair, reply, rice, river, salad, salt, sample, Saturday, school, season, second, September, service, seven,
shadow, silver, single, sister, sixty, sleep, soft, spring, square, stamp, station, street, sugar, summer, Sunday,
supper, table, taxi, teacher, thank you, theatre, thirty, Thursday, ticket, today, together, tomato, tomorrow, tower,
traffic, travel, Tuesday, twelve, twenty, umbrella, uncle, under, unique, update, urgent, usual, valley, vegetable,
village, violin, visit, voice, waiter, water, weather, Wednesday, weekend, west, whisky, window, winter, wizard,
woman, worker, writing, yellow, yesterday, yoga, zebra, zero
"""

# Few accented letters, each in several words: a letter that occurs in one word only is met by some of the
# splits and not by others, and no model learns it from the handful of images it would get.
_ACCENTED = """
André, Hélène, José, René, Zoé, Chloé, Gérard, Jürgen, Günter, Müller, Krüger, Schröder, Jörg, Björn, Köhler, Schäfer,
Bäcker, Jäger, Väinö, Françoise, François, Gonçalves, Muñoz, Peña, Ibáñez, Martínez, García, González, Rodríguez,
López, Gómez, Pérez, Hernández, Sánchez, Díaz, María, Lucía, Sofía, Düsseldorf, Köln, München, Zürich, Nürnberg,
Göteborg, Málaga, Córdoba, Orléans, Besançon, Genève, Liège, España, café, crème, garçon, leçon, façade, élève, père,
mère, frère, été, général, école, numéro, über, für, grün, Brücke, schön, böse, spät, Mädchen, Männer, Käse, Löffel,
mañana, niño, señor, año, corazón, canción, avión, café noir
"""

_COMPOUND = """
Jean-Luc, Anne-Marie, Jean-Paul, Marie-Claire, Hans-Peter, Mary Ann, Smith-Jones, Lloyd-Webber, Saint-Denis,
Aix-en-Provence, Baden-Baden, Stoke-on-Trent, twenty-one, well-known, part-time, X-ray, e-mail, New York, Los Angeles,
San Diego, Hong Kong, Cape Town, Tel Aviv, Buenos Aires, Kuala Lumpur, Rio Grande, New Delhi, Van Dyke, De Luca,
Da Silva, Le Roy, Mac Leod, El Paso, St Ives, O'Neil, O'Brien, O'Connor, O'Hara, D'Angelo, D'Souza, L'Oiseau,
Land's End, John's, don't, it's, I'm, can't, o'clock, good morning, yes please, no thanks, Dr Watson, Mrs Brown
"""

_CAPITALS = """
ADAM, ALICE, ANNA, BAKER, BERLIN, BRUNO, CAMILLE, CARTER, CLARA, DAVID, DUPONT, EMMA, EVANS, FELIX, FISCHER, GARCIA,
GEORGE, HELEN, HUGO, IRIS, JACOB, JULIA, KAREN, KEVIN, LAURA, LONDON, LOPEZ, LOUIS, MADRID, MARTIN, MAX, MILLER, NINA,
NOAH, OLIVIA, OSCAR, PARIS, PETIT, QUENTIN, ROBERT, ROSE, ROUX, SIMON, SMITH, THOMAS, UK, USA, VICTOR, VIENNA,
WALTER, WILSON, XAVIER, YVES, ZOE
"""

_NUMBERS = """
7647, 1984, 2024, 1999, 2001, 1066, 1789, 1815, 1914, 1945, 1969, 2012, 2030, 007, 0815, 0042, 10, 12, 15, 18, 21, 24,
27, 30, 33, 36, 42, 48, 50, 55, 64, 67, 73, 79, 81, 88, 90, 96, 99, 100, 125, 144, 250, 256, 307, 365, 404, 512, 603,
640, 718, 747, 800, 911, 1024, 1250, 1600, 2048, 3141, 3700, 4096, 5280, 6502, 7013, 8086, 9310, 10115, 20095, 31415,
48143, 50667, 62704, 75001, 80331, 90210, 65536, 27182, 16180, 40 km, 25 kg, 12 cm, Room 101, Route 66, B 52, No 5
"""


def _split(*texts: str) -> tuple[str, ...]:
    """Returns the comma-separated entries of the texts, each once, in the order of first appearance."""
    entries = (" ".join(entry.split()) for text in texts for entry in text.split(","))
    return tuple(dict.fromkeys(entry for entry in entries if entry))


WORDS: tuple[str, ...] = _split(_FIRST_NAMES, _SURNAMES, _PLACES, _WORDS, _ACCENTED, _COMPOUND, _CAPITALS, _NUMBERS)
"""Every label that the generator may draw, each once."""
